// What the kernels compute, for the GPU and for the host: g++ compiles it too, and the tests
// compare that with crops.cut, sharpness.sharpened and composite.paste.
//
// A job is a buffer of int32, written by painter.pack():
//   0 width, 1 height of the frame, 2 crops, 3 patches, 4 pixels of all patches,
//   5, 6, 7 where crops, holes and patches begin,
//   crop:  left, top, side, first hole, holes, strength (the bits of a float32)
//   hole:  x0, y0, x1, y1
//   patch: outer x0, y0, x1, y1, rect x0, y0, x1, y1, crop or -1, first byte of its pixels,
//          first pixel of its output, 0
// Patches are in the order of pasting. Rectangles are exclusive at the right and the bottom.

#ifndef FFS_KERNELS_H
#define FFS_KERNELS_H

#ifdef __CUDACC__
#define FFS_BOTH __host__ __device__ __forceinline__
#else
#include <cmath>
#include <cstring>
#define FFS_BOTH static inline
#endif

namespace kernels {

enum { kWidth, kHeight, kCrops, kPatches, kPixels, kCropsAt, kHolesAt, kPatchesAt };
enum { kCropInts = 6, kHoleInts = 4, kPatchInts = 12 };

// OpenCV weighs in steps of 1/2048 when it resizes 8 bit images.
constexpr int kWeightOne = 2048;
constexpr float kCubicA = -0.75f;

FFS_BOTH int low(int a, int b) { return a < b ? a : b; }
FFS_BOTH int high(int a, int b) { return a > b ? a : b; }
FFS_BOTH int clamped(int v, int from, int to) { return low(high(v, from), to); }
FFS_BOTH bool inside(const int* box, int x, int y) {
  return x >= box[0] && x < box[2] && y >= box[1] && y < box[3];
}
FFS_BOTH unsigned char level(float v) {
  return static_cast<unsigned char>(rintf(v < 0.f ? 0.f : v > 255.f ? 255.f : v));
}

// The source pixels along one axis that make up one target pixel. Target pixel t reaches from
// t * source to (t + 1) * source where a source pixel is `target_size` long, so all is exact.
struct Span {
  int first;
  int count;
  int start;
  int target_size;
  int source_size;
};

FFS_BOTH Span area_span(int target, int source_size, int target_size) {
  const int start = target * source_size, stop = start + source_size;
  const int first = start / target_size;
  return {first, (stop + target_size - 1) / target_size - first, start, target_size, source_size};
}

FFS_BOTH float area_weight(const Span& span, int i) {
  const int from = (span.first + i) * span.target_size;
  const int overlap = low(from + span.target_size, span.start + span.source_size) -
                      high(from, span.start);
  return static_cast<float>(overlap) / span.source_size;
}

// Where a target pixel's centre lies between two source pixels: the first, and how far beyond it.
struct Point {
  int first;
  float beyond;
};

FFS_BOTH Point centre(int target, int source_size, int target_size) {
  const int twice = (2 * target + 1) * source_size - target_size, unit = 2 * target_size;
  const int first = (twice + unit) / unit - 1;  // floor; the centre is never below -1/2
  return {first, static_cast<float>(twice - first * unit) / unit};
}

// A pixel of the frame as a crop may see it: nothing of a hole is read, not even to be discarded.
struct Seen {
  int bgr[3];
  int keep;
};

FFS_BOTH Seen seen(const unsigned char* frame, const int* job, const int* crop, int x, int y) {
  Seen pixel = {{0, 0, 0}, 255};
  const int* hole = job + job[kHolesAt] + crop[3] * kHoleInts;
  for (int i = 0; i < crop[4]; ++i, hole += kHoleInts) {
    if (inside(hole, x, y)) {
      pixel.keep = 0;
      return pixel;
    }
  }
  if (x >= 0 && y >= 0 && x < job[kWidth] && y < job[kHeight]) {
    const unsigned char* at = frame + (static_cast<long long>(y) * job[kWidth] + x) * 3;
    for (int c = 0; c < 3; ++c) pixel.bgr[c] = at[c];
  }
  return pixel;
}

// The weighted mean of two rows, cut off where OpenCV cuts it off: the mask hangs on the last bit.
FFS_BOTH int between_rows(int upper, int lower, const int* weights) {
  return ((weights[0] * (upper >> 4) >> 16) + (weights[1] * (lower >> 4) >> 16) + 2) >> 2;
}

// One pixel of the generator's input: what crops.cut computes at (row, column) of one crop.
FFS_BOTH void cut_pixel(const unsigned char* frame, const int* job, int index, int size, int row,
                        int column, float* condition, float* mask) {
  const long long plane = static_cast<long long>(size) * size;
  const long long at = static_cast<long long>(row) * size + column;
  if (index >= job[kCrops]) {  // padding of the batch
    for (int c = 0; c < 3; ++c) condition[c * plane + at] = 0.f;
    mask[at] = 1.f;
    return;
  }
  const int* crop = job + job[kCropsAt] + index * kCropInts;
  const int side = crop[2];
  int bgr[3];
  int keep;
  if (side > size) {
    const Span ys = area_span(row, side, size), xs = area_span(column, side, size);
    float sums[4] = {0.f, 0.f, 0.f, 0.f};
    for (int j = 0; j < ys.count; ++j) {
      const float wy = area_weight(ys, j);
      for (int i = 0; i < xs.count; ++i) {
        const float weight = wy * area_weight(xs, i);
        const Seen pixel = seen(frame, job, crop, crop[0] + xs.first + i, crop[1] + ys.first + j);
        for (int c = 0; c < 3; ++c) sums[c] += weight * pixel.bgr[c];
        sums[3] += weight * pixel.keep;
      }
    }
    for (int c = 0; c < 3; ++c) bgr[c] = level(sums[c]);
    keep = level(sums[3]);
  } else {
    const Point points[2] = {centre(row, side, size), centre(column, side, size)};
    int weights[2][2];
    for (int axis = 0; axis < 2; ++axis) {
      weights[axis][1] = static_cast<int>(rintf(points[axis].beyond * kWeightOne));
      weights[axis][0] = kWeightOne - weights[axis][1];
    }
    int rows[2][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
    for (int j = 0; j < 2; ++j) {
      for (int i = 0; i < 2; ++i) {
        if (weights[0][j] * weights[1][i] == 0) continue;
        const int x = crop[0] + clamped(points[1].first + i, 0, side - 1);
        const int y = crop[1] + clamped(points[0].first + j, 0, side - 1);
        const Seen pixel = seen(frame, job, crop, x, y);
        for (int c = 0; c < 3; ++c) rows[j][c] += weights[1][i] * pixel.bgr[c];
        rows[j][3] += weights[1][i] * pixel.keep;
      }
    }
    for (int c = 0; c < 3; ++c) bgr[c] = between_rows(rows[0][c], rows[1][c], weights[0]);
    keep = between_rows(rows[0][3], rows[1][3], weights[0]);
  }
  const float kept = keep == 255 ? 1.f : 0.f;
  for (int c = 0; c < 3; ++c) {
    condition[c * plane + at] = (bgr[2 - c] / 127.5f - 1.f) * kept;
  }
  mask[at] = kept;
}

// A sample of a generated face as a grey level; what is no number is told to the caller.
FFS_BOTH float face_level(const float* plane, int size, int row, int column, int* not_finite) {
  const float v = plane[static_cast<long long>(row) * size + column];
  if (!(v >= -3.4e38f && v <= 3.4e38f)) {
    *not_finite = 1;
    return 0.f;
  }
  return level((v + 1.f) * 127.5f);
}

// One pixel of a generated face (planes R, G, B) as it is pasted: its levels, and of what a
// binomial blur of 5 x 5 takes from them as much as the crop says. All sums of the blur are exact.
// Returns whether all is a picture.
FFS_BOTH bool sharpen_pixel(const float* faces, const int* job, int crop, int size, int row,
                            int column, unsigned char* levels) {
  const int weights[5] = {1, 4, 6, 4, 1};
  const long long plane = static_cast<long long>(size) * size;
  float strength;
  memcpy(&strength, job + job[kCropsAt] + crop * kCropInts + 5, sizeof strength);
  int not_finite = 0;
  for (int c = 0; c < 3; ++c) {
    const float* channel = faces + (crop * 3LL + c) * plane;
    float own = face_level(channel, size, row, column, &not_finite);
    if (strength > 0.f) {
      float sum = 0.f;
      for (int j = 0; j < 5; ++j) {
        const int at_row = clamped(row - 2 + j, 0, size - 1);
        for (int i = 0; i < 5; ++i) {
          const int at_column = clamped(column - 2 + i, 0, size - 1);
          sum += weights[j] * weights[i] *
                 face_level(channel, size, at_row, at_column, &not_finite);
        }
      }
      own += strength * (own - sum / 256.f);
    }
    levels[(crop * 3LL + c) * plane + static_cast<long long>(row) * size + column] = level(own);
  }
  return !not_finite;
}

FFS_BOTH void cubic_weights(float x, float* weights) {
  const float a = kCubicA, y = 1.f - x;
  weights[0] = ((a * (x + 1.f) - 5.f * a) * (x + 1.f) + 8.f * a) * (x + 1.f) - 4.f * a;
  weights[1] = ((a + 2.f) * x - (a + 3.f)) * x * x + 1.f;
  weights[2] = ((a + 2.f) * y - (a + 3.f)) * y * y + 1.f;
  weights[3] = 1.f - weights[0] - weights[1] - weights[2];
}

// A generated face (planes R, G, B of levels) at (row, column) of its crop in the frame, resized.
FFS_BOTH void face_pixel(const unsigned char* face, int size, int side, int row,
                         int column, float* bgr) {
  const long long plane = static_cast<long long>(size) * size;
  float sums[3] = {0.f, 0.f, 0.f};
  if (side < size) {
    const Span ys = area_span(row, size, side), xs = area_span(column, size, side);
    for (int j = 0; j < ys.count; ++j) {
      const float wy = area_weight(ys, j);
      for (int i = 0; i < xs.count; ++i) {
        const float weight = wy * area_weight(xs, i);
        const long long at = static_cast<long long>(ys.first + j) * size + xs.first + i;
        for (int c = 0; c < 3; ++c) sums[c] += weight * face[(2 - c) * plane + at];
      }
    }
  } else {
    const Point points[2] = {centre(row, size, side), centre(column, size, side)};
    float weights[2][4];
    cubic_weights(points[0].beyond, weights[0]);
    cubic_weights(points[1].beyond, weights[1]);
    for (int j = 0; j < 4; ++j) {
      for (int i = 0; i < 4; ++i) {
        const float weight = weights[0][j] * weights[1][i];
        const int at_row = clamped(points[0].first - 1 + j, 0, size - 1);
        const int at_column = clamped(points[1].first - 1 + i, 0, size - 1);
        const long long at = static_cast<long long>(at_row) * size + at_column;
        for (int c = 0; c < 3; ++c) sums[c] += weight * face[(2 - c) * plane + at];
      }
    }
  }
  for (int c = 0; c < 3; ++c) bgr[c] = level(sums[c]);
}

// The weight of a patch along one axis: 1 inside its rectangle, falling around it.
FFS_BOTH float ramp(int at, int outer_start, int outer_stop, int start, int stop) {
  if (at < start) return (at - outer_start + 1.f) / (start - outer_start + 1.f);
  if (at >= stop) return (outer_stop - at + 0.f) / (outer_stop - stop + 1.f);
  return 1.f;
}

// One pixel of the output: every patch that reaches it, in order. The frame is not read where a
// rectangle covers it.
FFS_BOTH void paste_pixel(const unsigned char* frame, const unsigned char* pixels,
                          const unsigned char* faces, const int* job, int size, int index,
                          unsigned char* out) {
  const int* patches = job + job[kPatchesAt];
  int from = 0, to = job[kPatches] - 1;
  while (from < to) {  // the last patch whose output begins at or before this pixel
    const int middle = (from + to + 1) / 2;
    if (patches[middle * kPatchInts + 10] <= index) {
      from = middle;
    } else {
      to = middle - 1;
    }
  }
  const int* own = patches + from * kPatchInts;
  const int offset = index - own[10], width = own[2] - own[0];
  const int x = own[0] + offset % width, y = own[1] + offset / width;

  int first = job[kPatches] - 1;
  while (first >= 0 && !inside(patches + first * kPatchInts + 4, x, y)) --first;
  float bgr[3] = {0.f, 0.f, 0.f};
  if (first < 0) {
    const unsigned char* at = frame + (static_cast<long long>(y) * job[kWidth] + x) * 3;
    for (int c = 0; c < 3; ++c) bgr[c] = at[c];
    first = 0;
  }
  for (int i = first; i < job[kPatches]; ++i) {
    const int* patch = patches + i * kPatchInts;
    if (!inside(patch, x, y)) continue;
    float over[3];
    if (patch[8] >= 0) {
      const int* crop = job + job[kCropsAt] + patch[8] * kCropInts;
      const unsigned char* face = faces + static_cast<long long>(patch[8]) * 3 * size * size;
      face_pixel(face, size, crop[2], y - crop[1], x - crop[0], over);
    } else {
      const int at = (y - patch[1]) * (patch[2] - patch[0]) + x - patch[0];
      for (int c = 0; c < 3; ++c) over[c] = pixels[patch[9] + at * 3LL + c];
    }
    const float alpha = ramp(y, patch[1], patch[3], patch[5], patch[7]) *
                        ramp(x, patch[0], patch[2], patch[4], patch[6]);
    for (int c = 0; c < 3; ++c) bgr[c] = level(over[c] * alpha + bgr[c] * (1.f - alpha));
  }
  for (int c = 0; c < 3; ++c) out[index * 3LL + c] = static_cast<unsigned char>(bgr[c]);
}

}  // namespace kernels

#endif  // FFS_KERNELS_H
