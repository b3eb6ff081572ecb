// Decoded surfaces of any kind -> rows of the model's input, in one launch: sample, convert, clip, place.
//
// All that depends on the kind of picture alone is worked out on the host (pipeline/preprocess/packing.py): for every
// column and every row of the output the samples it is made of, as byte offsets and weights. Rotation, mirroring,
// sample aspect ratio, siting and interpolation are all in these tables; the address of a sample is
// surface + column offset + row offset, whichever way round the picture lies.
//
// The file is plain C++ apart from the CUDA keywords: the tests compile it for the host.

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

constexpr int kBlockColumns = 32, kBlockRows = 8;  // threads
constexpr int kRowsPerThread = 4;                  // what a thread knows of its column serves this many rows
constexpr int kMaxRows = 240;                      // kernel parameters are limited to 4 KiB

struct alignas(8) Tap {
  int offset;  // bytes
  float weight;
};

template <int Count>
struct alignas(8 * Count) Taps {
  Tap tap[Count];
};

// The tables of one plane, or of both chroma planes: where they start, in bytes from the plan, and taps per pixel.
struct alignas(16) Tables {
  int columns, rows, column_taps, row_taps;
};

struct alignas(16) Plan {
  int left, top, width, height;  // what of the output holds picture
  Tables luma, chroma;
  int cb, cr;   // bytes from the surface's first sample to that of the second plane, from there to the third
  int shift;    // samples are shifted up by this many bits
  int variant;  // see `fused`
  int hidden;   // bytes from the plan to the mask, one bit per pixel of the picture, first bit highest; 0: none
  int unused[3];
  float map[3][4];     // per channel: weight of each plane's sample, and what is added
  float limits[3][4];  // per channel: lowest and highest value, padding
};

struct Row {
  unsigned long long surface;  // first luma sample
  unsigned long long plan;     // 0: a row without a frame, which becomes zeros
};

struct Batch {
  unsigned long long output;
  int width, height;
  Row rows[kMaxRows];
};

struct AnyTaps {
  const Tap* tap;
  int count;
};

template <int Count>
__device__ __forceinline__ int count_of(const Taps<Count>&) {
  return Count;
}
__device__ __forceinline__ int count_of(const AnyTaps& taps) { return taps.count; }

// Which taps a variant has: as many as fixed when it was compiled, or, for 0, as the plan says.
template <int Count>
struct Kind {
  using Type = Taps<Count>;
  static __device__ __forceinline__ Type at(const char* plan, int table, int pixel, int) {
    return reinterpret_cast<const Type*>(plan + table)[pixel];
  }
};
template <>
struct Kind<0> {
  using Type = AnyTaps;
  static __device__ __forceinline__ Type at(const char* plan, int table, int pixel, int count) {
    return {reinterpret_cast<const Tap*>(plan + table) + static_cast<long long>(pixel) * count, count};
  }
};

template <typename Sample>
struct alignas(2 * sizeof(Sample)) Pair {
  Sample first, second;
};

template <typename Sample, typename ColumnTaps, typename RowTaps>
__device__ __forceinline__ float weigh(const char* plane, int shift, const ColumnTaps& columns, const RowTaps& rows) {
  float total = 0.f;
#pragma unroll
  for (int c = 0; c < count_of(columns); c++) {
    float sum = 0.f;
#pragma unroll
    for (int r = 0; r < count_of(rows); r++) {
      const Sample* sample =
          reinterpret_cast<const Sample*>(plane + (columns.tap[c].offset + rows.tap[r].offset));
      sum += rows.tap[r].weight * static_cast<float>(__ldg(sample) >> shift);
    }
    total += columns.tap[c].weight * sum;
  }
  return total;
}

// The same for two planes whose samples alternate, as NV12's chroma: one load for both.
template <typename Sample, typename ColumnTaps, typename RowTaps>
__device__ __forceinline__ void weigh_pairs(const char* plane, int shift, const ColumnTaps& columns,
                                            const RowTaps& rows, float& first, float& second) {
  first = second = 0.f;
#pragma unroll
  for (int c = 0; c < count_of(columns); c++) {
    float sum_first = 0.f, sum_second = 0.f;
#pragma unroll
    for (int r = 0; r < count_of(rows); r++) {
      const Pair<Sample> pair =
          *reinterpret_cast<const Pair<Sample>*>(plane + (columns.tap[c].offset + rows.tap[r].offset));
      sum_first += rows.tap[r].weight * static_cast<float>(pair.first >> shift);
      sum_second += rows.tap[r].weight * static_cast<float>(pair.second >> shift);
    }
    first += columns.tap[c].weight * sum_first;
    second += columns.tap[c].weight * sum_second;
  }
}

__device__ __forceinline__ void store(float* to, float value) { *to = value; }
__device__ __forceinline__ void store(__half* to, float value) { *to = __float2half_rn(value); }
// The half that makes cutting off the fraction round half up is in the map's offset.
__device__ __forceinline__ void store(unsigned char* to, float value) {
  *to = static_cast<unsigned char>(static_cast<int>(value));
}

template <typename Out, bool ChannelsLast, int Channels>
__device__ __forceinline__ void put(const Batch& batch, int row, int y, int x, const float* values) {
  Out* output = reinterpret_cast<Out*>(batch.output);
  const unsigned long long line = static_cast<unsigned long long>(row) * batch.height;
  // Grey is the sum of the three channels, which are weighted for that.
  const float grey = values[0] + values[1] + values[2];
#pragma unroll
  for (int c = 0; c < Channels; c++) {
    const unsigned long long at = ChannelsLast ? ((line + y) * batch.width + x) * Channels + c
                                               : (line * Channels + c * batch.height + y) * batch.width + x;
    store(output + at, Channels == 1 ? grey : values[c]);
  }
}

// One thread's pixels: column x, rows y, y + kBlockRows, ...
template <typename Out, bool ChannelsLast, int Channels, typename Sample, bool Paired, int LumaTaps, int ChromaTaps>
__device__ __forceinline__ void fill(const Batch& batch, const Plan* __restrict__ plan_, int row, int x, int y) {
  const Plan& plan = *plan_;
  const char* tables = reinterpret_cast<const char*>(plan_);
  const char* surface = reinterpret_cast<const char*>(batch.rows[row].surface);
  const char* chroma = surface + plan.cb;
  const int column = x - plan.left, shift = plan.shift, hidden = plan.hidden;
  const bool seen = column >= 0 && column < plan.width;
  const int safe = seen ? column : 0;
  const auto luma_columns = Kind<LumaTaps>::at(tables, plan.luma.columns, safe, plan.luma.column_taps);
  const auto chroma_columns = Kind<ChromaTaps>::at(tables, plan.chroma.columns, safe, plan.chroma.column_taps);
#pragma unroll
  for (int i = 0; i < kRowsPerThread; i++, y += kBlockRows) {
    if (y >= batch.height) return;
    const int line = y - plan.top;
    bool shown = seen && line >= 0 && line < plan.height;
    if (shown && hidden) {
      const int pixel = line * plan.width + column;
      shown = !((tables[hidden + (pixel >> 3)] >> (7 - (pixel & 7))) & 1);
    }
    float values[3];
    if (shown) {
      const auto luma_rows = Kind<LumaTaps>::at(tables, plan.luma.rows, line, plan.luma.row_taps);
      const auto chroma_rows = Kind<ChromaTaps>::at(tables, plan.chroma.rows, line, plan.chroma.row_taps);
      float second, third;
      const float first = weigh<Sample>(surface, shift, luma_columns, luma_rows);
      if (Paired) {
        weigh_pairs<Sample>(chroma, shift, chroma_columns, chroma_rows, second, third);
      } else {
        second = weigh<Sample>(chroma, shift, chroma_columns, chroma_rows);
        third = weigh<Sample>(chroma + plan.cr, shift, chroma_columns, chroma_rows);
      }
#pragma unroll
      for (int c = 0; c < 3; c++) {
        const float value =
            first * plan.map[c][0] + plan.map[c][3] + second * plan.map[c][1] + third * plan.map[c][2];
        values[c] = fminf(fmaxf(value, plan.limits[c][0]), plan.limits[c][1]);
      }
    } else {
#pragma unroll
      for (int c = 0; c < 3; c++) values[c] = plan.limits[c][2];
    }
    put<Out, ChannelsLast, Channels>(batch, row, y, x, values);
  }
}

template <typename Out, bool ChannelsLast, int Channels, typename Sample, bool Paired>
__device__ __forceinline__ void fill_taps(int taps, const Batch& batch, const Plan* plan, int row, int x, int y) {
  if (taps == 0)
    fill<Out, ChannelsLast, Channels, Sample, Paired, 1, 2>(batch, plan, row, x, y);
  else if (taps == 1)
    fill<Out, ChannelsLast, Channels, Sample, Paired, 2, 2>(batch, plan, row, x, y);
  else
    fill<Out, ChannelsLast, Channels, Sample, Paired, 0, 0>(batch, plan, row, x, y);
}

// Grid: (columns / 32, rows / 32, rows of the tensor), blocks of 32 x 8. All threads of a block take the same branches here.
template <typename Out, bool ChannelsLast, int Channels>
__global__ void fused(const __grid_constant__ Batch batch) {
  const int x = blockIdx.x * kBlockColumns + threadIdx.x, row = blockIdx.z;
  int y = blockIdx.y * (kBlockRows * kRowsPerThread) + threadIdx.y;
  if (x >= batch.width) return;
  const Plan* plan = reinterpret_cast<const Plan*>(batch.rows[row].plan);
  if (!plan) {
    const float zeros[3] = {0.f, 0.f, 0.f};
    for (int i = 0; i < kRowsPerThread && y < batch.height; i++, y += kBlockRows)
      put<Out, ChannelsLast, Channels>(batch, row, y, x, zeros);
    return;
  }
  // variant = taps + 3 * paired + 6 * (16-bit samples); taps: 0: 1x1 luma, 2x2 chroma; 1: 2x2 both; 2: any number.
  const int variant = plan->variant, taps = variant % 3;
  switch (variant / 3) {
    case 0: fill_taps<Out, ChannelsLast, Channels, unsigned char, false>(taps, batch, plan, row, x, y); break;
    case 1: fill_taps<Out, ChannelsLast, Channels, unsigned char, true>(taps, batch, plan, row, x, y); break;
    case 2: fill_taps<Out, ChannelsLast, Channels, unsigned short, false>(taps, batch, plan, row, x, y); break;
    default: fill_taps<Out, ChannelsLast, Channels, unsigned short, true>(taps, batch, plan, row, x, y); break;
  }
}
