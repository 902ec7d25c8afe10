// The loops around kernels.h: blocks and threads on the GPU, plain loops on the host.

#include "kernels.h"

#ifdef __CUDACC__

// Grid: (pixels of a crop / block, crops of the batch). `first` is the batch's first crop.
extern "C" __global__ void ffs_cut(const unsigned char* frame, const int* job, int first, int size,
                                   float* condition, float* mask) {
  const int at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= size * size) return;
  const long long plane = static_cast<long long>(size) * size;
  kernels::cut_pixel(frame, job, first + blockIdx.y, size, at / size, at % size,
                 condition + blockIdx.y * 3 * plane, mask + blockIdx.y * plane);
}

// Grid: (pixels of a face / block, crops or more). `told` becomes 1 where a face is no picture.
extern "C" __global__ void ffs_sharpen(const float* faces, const int* job, int size,
                                       unsigned char* levels, int* told) {
  const int at = blockIdx.x * blockDim.x + threadIdx.x, crop = blockIdx.y;
  if (at >= size * size || crop >= job[kernels::kCrops]) return;
  if (!kernels::sharpen_pixel(faces, job, crop, size, at / size, at % size, levels)) *told = 1;
}

// Any grid.
extern "C" __global__ void ffs_paste(const unsigned char* frame, const unsigned char* pixels,
                                     const unsigned char* faces, const int* job, int size,
                                     unsigned char* out) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < job[kernels::kPixels];
       i += gridDim.x * blockDim.x) {
    kernels::paste_pixel(frame, pixels, faces, job, size, i, out);
  }
}

#else

extern "C" void ffs_cut(const unsigned char* frame, const int* job, int first, int batch, int size,
                        float* condition, float* mask) {
  const long long plane = static_cast<long long>(size) * size;
  for (int i = 0; i < batch; ++i) {
    for (int at = 0; at < size * size; ++at) {
      kernels::cut_pixel(frame, job, first + i, size, at / size, at % size,
                         condition + i * 3 * plane, mask + i * plane);
    }
  }
}

extern "C" void ffs_sharpen(const float* faces, const int* job, int size, unsigned char* levels,
                            int* told) {
  for (int crop = 0; crop < job[kernels::kCrops]; ++crop) {
    for (int at = 0; at < size * size; ++at) {
      if (!kernels::sharpen_pixel(faces, job, crop, size, at / size, at % size, levels)) *told = 1;
    }
  }
}

extern "C" void ffs_paste(const unsigned char* frame, const unsigned char* pixels,
                          const unsigned char* faces, const int* job, int size,
                          unsigned char* out) {
  for (int i = 0; i < job[kernels::kPixels]; ++i) {
    kernels::paste_pixel(frame, pixels, faces, job, size, i, out);
  }
}

#endif
