"""The way of a frame that stays on the GPU: kernels, their driver, and the jobs they are given."""
