// From a model's outputs to finished results, without the host: the kernels behind pipeline/postprocess/cuda.
//
// collect: every score of a batch is looked at once; what reaches its class's threshold leaves a key (score, index).
// finish:  one block a frame takes the best keys that are left, sorts them, decodes their boxes and goes through them
//          greedily (non-maximum suppression), until enough boxes survived or no key is left; results go out packed.
// classify: one block a frame finds the best classes.
// segment: the class of every pixel.
//
// The order of keys is the reference's order of candidates: score descending, then anchor, then class. Any number of
// candidates is treated exactly: where more than fit leave keys, `finish` looks at the scores itself.
//
// Compiled without contraction to fused multiply-add, so that boxes and overlaps are rounded as the reference's are. The
// file is plain C++ apart from the CUDA keywords: the tests compile it for the host, where `for_all` is a loop.

using Key = unsigned long long;

constexpr int kCollectThreads = 256, kFinishThreads = 512;
constexpr unsigned kChunk = 1024;                 // candidates that `finish` treats at a time
constexpr int kMaxFrames = 64, kMaxLevels = 8;    // kernel parameters are limited to 4 KiB
constexpr int kBins = 256;                        // of one step of a selection by radix
constexpr float kLargestProbability = 1.01f;      // more than this is no rounding of a 1

enum Walk { kEachColumn, kSoftmaxColumns, kBestColumn, kGivenClass };
enum Activation { kNone, kSigmoid, kSoftmax };
enum BoxFormat { kXyxy, kYxyx, kXywh, kCxcywh, kDistribution };
enum Type { kSingle, kHalf, kDouble, kInt8, kInt16, kInt32, kInt64, kUint8, kUint16, kUint32, kUint64 };

// Part of an output: [frame, row, column]. Strides count elements.
struct Tensor {
  unsigned long long data;
  long long frame_stride;
  int row_stride, column_stride, type, unused;
};

// The anchors of one stride of a feature pyramid; other heads have one level.
struct Level {
  Tensor scores, boxes;
  int first, rows, grid_columns;
  float stride;
};

// Where a frame's picture lies in the model's input: model = display * scale + offset.
struct View {
  double scale_x, scale_y, offset_x, offset_y;
  float width, height;
};

struct Tally {
  unsigned count, largest;  // keys (of a crowded frame: at least), bits of the largest improbable score
};

struct Box {
  float x1, y1, x2, y2;
};

struct Kept {
  Box box;
  int class_id;
};

struct Header {
  int count, crowded, cut;
  float largest;  // improbable score, or 0
};

struct Row {
  Box box;
  float score;
  int class_id;
};

struct ClassRow {
  float score;
  int class_id;
};

struct Batch {
  Level levels[kMaxLevels];
  Tensor class_ids, counts;    // data 0: there are none
  unsigned long long limits;   // float [2][limit_count]: least score by class id; least number as it stands in the output
  unsigned long long keys;     // Key [frame][capacity]
  unsigned long long tallies;  // Tally [frame], zero between batches
  unsigned long long kept;     // Kept [frame][kept_capacity]
  unsigned long long results;  // [frame][result_bytes]: a header and rows
  double iou_threshold;        // negative: no suppression
  int level_count, columns, hidden_columns, walk, activation, objectness;
  int box_format, bins, limit_count, class_offset, class_agnostic;
  int capacity, kept_capacity, most, result_bytes;
  float cell_shift, box_scale_x, box_scale_y;
  float least;                           // no number below this one can reach a limit
  float other_limit, other_least;        // of class ids from limit_count on
  View views[kMaxFrames];
};

// Class maps of a batch.
struct Maps {
  Tensor scores;               // [frame, pixel, channel]
  unsigned long long results;  // [frame][result_bytes]: bits of every block's largest improbable score, a byte a pixel
  int pixels, channels, activation, whole, result_bytes;
  float least;                 // no pixel whose best class has a lower probability has a class; negative: all have
  unsigned char numbers[256];  // of each channel, or class number, its number in the class map
};

struct Work {
  Key keys[kChunk];
  Box boxes[kChunk];
  int class_ids[kChunk];
  int places[kChunk];            // row of the result, or -1
  unsigned char alive[kChunk];   // neither suppressed nor without area
  unsigned char visible[kChunk];
  unsigned histogram[kBins];
  Key below, floor, prefix;  // keys to take now: floor <= key < below
  unsigned taken, sure, kept, shown, settled;
  double partial[kFinishThreads];
};

#ifdef __CUDACC__
// All threads of the block do `f(thread, threads)`; what is read between two of these is written in neither.
template <typename F>
__device__ __forceinline__ void for_all(F f) {
  __syncthreads();
  f(threadIdx.x, blockDim.x);
  __syncthreads();
}
#endif

// --- numbers -----------------------------------------------------------------------------------------------------------

__device__ __forceinline__ float half_to_float(unsigned short bits) {
  const unsigned sign = (bits & 0x8000u) << 16, rest = bits & 0x7fffu;
  if (rest >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  // Numbers below the smallest normal half are multiples of 2^-24. CuPy's compiler flushes single-precision ones to zero.
  const float size =
      rest < 0x400u ? static_cast<float>(rest) * 5.9604644775390625e-8f : __uint_as_float((rest << 13) + 0x38000000u);
  return __uint_as_float(sign | __float_as_uint(size));
}

template <typename T>
__device__ __forceinline__ T at(unsigned long long data, long long i) {
  return reinterpret_cast<const T*>(data)[i];
}

__device__ inline double number(const Tensor& t, long long i) {
  switch (t.type) {
    case kSingle: return at<float>(t.data, i);
    case kHalf: return half_to_float(at<unsigned short>(t.data, i));
    case kDouble: return at<double>(t.data, i);
    case kInt8: return at<signed char>(t.data, i);
    case kInt16: return at<short>(t.data, i);
    case kInt32: return at<int>(t.data, i);
    case kInt64: return static_cast<double>(at<long long>(t.data, i));
    case kUint8: return at<unsigned char>(t.data, i);
    case kUint16: return at<unsigned short>(t.data, i);
    case kUint32: return at<unsigned>(t.data, i);
    default: return static_cast<double>(at<unsigned long long>(t.data, i));
  }
}

// Readers of scores: the usual types without a switch in the inner loop.
struct Singles {
  unsigned long long data;
  __device__ __forceinline__ float operator()(long long i) const { return at<float>(data, i); }
};
struct Halves {
  unsigned long long data;
  __device__ __forceinline__ float operator()(long long i) const { return half_to_float(at<unsigned short>(data, i)); }
};
struct Others {
  Tensor tensor;
  __device__ __forceinline__ float operator()(long long i) const { return static_cast<float>(number(tensor, i)); }
};

__device__ __forceinline__ bool is_finite(float x) { return x - x == 0; }

__device__ __forceinline__ float sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return (x >= 0 ? 1.f : e) / (1 + e);
}

// --- candidates --------------------------------------------------------------------------------------------------------

__device__ __forceinline__ Key key_of(float score, unsigned index) {
  // Adding zero makes one of the two zeros.
  return static_cast<Key>(__float_as_uint(fminf(score, 1.f) + 0.f)) << 32 | (0xffffffffu - index);
}
__device__ __forceinline__ unsigned index_of(Key key) { return 0xffffffffu - static_cast<unsigned>(key); }
__device__ __forceinline__ float score_of(Key key) { return __uint_as_float(static_cast<unsigned>(key >> 32)); }

// Hands the score to `visit` if it reaches the limit of its class.
template <typename Visit>
__device__ __forceinline__ void offer(const Batch& b, float raw, long long class_id, unsigned index, Visit visit) {
  const bool listed = class_id < b.limit_count;
  const float least = listed ? at<float>(b.limits, b.limit_count + class_id) : b.other_least;
  if (!(raw >= least) || !is_finite(raw)) return;
  float score = raw;
  if (b.activation == kSigmoid) {
    score = sigmoid(raw);
    if (!(score >= (listed ? at<float>(b.limits, class_id) : b.other_limit))) return;
  }
  visit(score, index);
}

__device__ inline bool class_of_anchor(const Batch& b, int frame, unsigned anchor, long long* class_id) {
  if (b.counts.data && !(anchor < number(b.counts, frame * b.counts.frame_stride))) return false;
  const Tensor& t = b.class_ids;
  const double given = number(t, frame * t.frame_stride + static_cast<long long>(anchor) * t.row_stride);
  // Some models fill up with class -1, or with not a number.
  if (!(given > -0.5 && given < 2147483647.0)) return false;
  *class_id = static_cast<long long>(rint(given)) + b.class_offset;
  return true;
}

template <typename Scores, typename Visit>
__device__ __forceinline__ void walk_level(const Batch& b, const Level& level, int frame, Scores scores, unsigned first,
                                           unsigned step, Visit visit) {
  const long long start = frame * level.scores.frame_stride;
  const long long row_stride = level.scores.row_stride, column_stride = level.scores.column_stride;
  const unsigned columns = b.columns, rows = level.rows;
  if (b.walk == kEachColumn) {
    for (unsigned i = first; i < rows * columns; i += step) {
      const unsigned row = i / columns, column = i - row * columns;
      const float raw = scores(start + row * row_stride + column * column_stride);
      if (raw >= b.least) offer(b, raw, column + b.class_offset, level.first * columns + i, visit);
    }
    return;
  }
  for (unsigned row = first; row < rows; row += step) {
    const long long origin = start + row * row_stride;
    const unsigned index = (level.first + row) * columns;
    if (b.walk == kBestColumn) {
      float best = scores(origin);
      unsigned best_column = 0;
      bool defined = best == best;
#pragma unroll 4
      for (unsigned column = 1; column < columns; column++) {
        const float raw = scores(origin + column * column_stride);
        defined = defined && raw == raw;
        if (raw > best) best = raw, best_column = column;
      }
      if (!defined) continue;
      if (b.objectness) best = best * scores(origin - column_stride);
      if (best >= b.least) offer(b, best, best_column + b.class_offset, index + best_column, visit);
    } else if (b.walk == kSoftmaxColumns) {
      const int hidden = b.hidden_columns;
      float largest = scores(origin - hidden * column_stride);
      for (int column = 1 - hidden; column < static_cast<int>(columns); column++)
        largest = fmaxf(largest, scores(origin + column * column_stride));
      double sum = 0;  // Not a number if any of the numbers is infinite upwards or none.
      for (int column = -hidden; column < static_cast<int>(columns); column++)
        sum += expf(scores(origin + column * column_stride) - largest);
      for (unsigned column = 0; column < columns; column++) {
        const float score = expf(scores(origin + column * column_stride) - largest) / static_cast<float>(sum);
        if (score >= b.least) offer(b, score, column + b.class_offset, index + column, visit);
      }
    } else {
      const float raw = scores(origin);
      long long class_id;
      if (raw >= b.least && class_of_anchor(b, frame, row, &class_id)) offer(b, raw, class_id, index, visit);
    }
  }
}

// Calls `visit(score, index)` for every candidate of a frame that falls to this thread.
template <typename Visit>
__device__ __forceinline__ void walk(const Batch& b, int frame, unsigned first, unsigned step, Visit visit) {
  for (int i = 0; i < b.level_count; i++) {
    const Level& level = b.levels[i];
    switch (level.scores.type) {
      case kSingle: walk_level(b, level, frame, Singles{level.scores.data}, first, step, visit); break;
      case kHalf: walk_level(b, level, frame, Halves{level.scores.data}, first, step, visit); break;
      default: walk_level(b, level, frame, Others{level.scores}, first, step, visit);
    }
  }
}

// Grid: (any, frames).
extern "C" __global__ void __launch_bounds__(kCollectThreads) collect(const __grid_constant__ Batch b) {
  const int frame = blockIdx.y;
  Tally* tally = reinterpret_cast<Tally*>(b.tallies) + frame;
  Key* keys = reinterpret_cast<Key*>(b.keys) + static_cast<long long>(frame) * b.capacity;
  const unsigned capacity = b.capacity;
  for_all([&](unsigned thread, unsigned threads) {
    walk(b, frame, blockIdx.x * threads + thread, gridDim.x * threads, [&](float score, unsigned index) {
      if (score > kLargestProbability) atomicMax(&tally->largest, __float_as_uint(score));
      // Once it is known that they do not fit, counting them would only cost time.
      if (*static_cast<volatile unsigned*>(&tally->count) > capacity) return;
      const unsigned place = atomicAdd(&tally->count, 1u);
      if (place < capacity) keys[place] = key_of(score, index);
    });
  });
}

// --- the best of many --------------------------------------------------------------------------------------------------

// Sets `floor` so that of the keys below `below` the best are taken: at most `most`, and `enough` unless there are fewer.
// `each(thread, threads, visit)` calls `visit(key)` for every key; keys differ.
template <typename Each>
__device__ __forceinline__ void select(Work& w, unsigned most, unsigned enough, Each each) {
  for_all([&](unsigned thread, unsigned) {
    if (thread == 0) w.prefix = 0, w.sure = 0, w.settled = 0;
  });
  for (int shift = 56; shift >= 0 && !w.settled; shift -= 8) {
    for_all([&](unsigned thread, unsigned threads) {
      for (unsigned i = thread; i < kBins; i += threads) w.histogram[i] = 0;
    });
    for_all([&](unsigned thread, unsigned threads) {
      each(thread, threads, [&](Key key) {
        if (key < w.below && (shift == 56 || key >> (shift + 8) == w.prefix))
          atomicAdd(&w.histogram[key >> shift & (kBins - 1)], 1u);
      });
    });
    for_all([&](unsigned thread, unsigned) {
      if (thread) return;
      int bin = kBins - 1;
      while (bin >= 0 && w.sure + w.histogram[bin] <= most) w.sure += w.histogram[bin--];
      if (bin < 0) {
        w.floor = shift == 56 ? 0 : w.prefix << (shift + 8);
        w.settled = 1;
      } else {
        w.prefix = w.prefix << 8 | static_cast<unsigned>(bin);
        w.floor = (w.prefix + 1) << shift;  // Fits: no score has the highest bits.
        w.settled = w.sure >= enough;
      }
    });
  }
}

template <typename Each>
__device__ __forceinline__ void take(Work& w, Each each) {
  for_all([&](unsigned thread, unsigned) {
    if (thread == 0) w.taken = 0;
  });
  for_all([&](unsigned thread, unsigned threads) {
    each(thread, threads, [&](Key key) {
      if (key >= w.floor && key < w.below) w.keys[atomicAdd(&w.taken, 1u)] = key;
    });
  });
}

// Batcher's bitonic sort, descending, of the keys taken.
__device__ __forceinline__ void sort(Work& w) {
  const unsigned taken = w.taken;
  unsigned size = 1;
  while (size < taken) size *= 2;
  for_all([&](unsigned thread, unsigned threads) {
    for (unsigned i = taken + thread; i < size; i += threads) w.keys[i] = 0;
  });
  for (unsigned run = 2; run <= size; run *= 2)
    for (unsigned apart = run / 2; apart > 0; apart /= 2)
      for_all([&](unsigned thread, unsigned threads) {
        for (unsigned pair = thread; pair < size / 2; pair += threads) {
          const unsigned low = 2 * pair - (pair & (apart - 1)), high = low + apart;
          const Key a = w.keys[low], c = w.keys[high];
          if ((a < c) == !(low & run)) w.keys[low] = c, w.keys[high] = a;
        }
      });
}

// --- boxes -------------------------------------------------------------------------------------------------------------

__device__ inline Box box_of_distribution(const Batch& b, const Level& level, const Tensor& t, long long origin,
                                          int cell) {
  float sides[4];
  for (int side = 0; side < 4; side++) {
    const long long start = origin + static_cast<long long>(side) * b.bins * t.column_stride;
    float largest = static_cast<float>(number(t, start));
    for (int bin = 1; bin < b.bins; bin++)
      largest = fmaxf(largest, static_cast<float>(number(t, start + bin * t.column_stride)));
    float sum = 0, moment = 0;
    for (int bin = 0; bin < b.bins; bin++) {
      const float e = expf(static_cast<float>(number(t, start + bin * t.column_stride)) - largest);
      sum += e;
      moment += e * static_cast<float>(bin);
    }
    sides[side] = moment / sum * level.stride;
  }
  const float x = (static_cast<float>(cell % level.grid_columns) + b.cell_shift) * level.stride;
  const float y = (static_cast<float>(cell / level.grid_columns) + b.cell_shift) * level.stride;
  return {x - sides[0], y - sides[1], x + sides[2], y + sides[3]};
}

// In model pixels.
__device__ inline Box decode(const Batch& b, int frame, unsigned anchor) {
  int number_of_level = 0;
  while (number_of_level + 1 < b.level_count && anchor >= static_cast<unsigned>(b.levels[number_of_level + 1].first))
    number_of_level++;
  const Level& level = b.levels[number_of_level];
  const Tensor& t = level.boxes;
  const int cell = anchor - level.first;
  const long long origin = frame * t.frame_stride + static_cast<long long>(cell) * t.row_stride;
  if (b.box_format == kDistribution) return box_of_distribution(b, level, t, origin, cell);
  float v[4];
  for (int i = 0; i < 4; i++) v[i] = static_cast<float>(number(t, origin + static_cast<long long>(i) * t.column_stride));
  Box box = {v[0], v[1], v[2], v[3]};
  if (b.box_format == kYxyx) box = {v[1], v[0], v[3], v[2]};
  if (b.box_format == kXywh) box = {v[0], v[1], v[0] + v[2], v[1] + v[3]};
  if (b.box_format == kCxcywh)
    box = {v[0] - 0.5f * v[2], v[1] - 0.5f * v[3], v[0] + 0.5f * v[2], v[1] + 0.5f * v[3]};
  return {box.x1 * b.box_scale_x, box.y1 * b.box_scale_y, box.x2 * b.box_scale_x, box.y2 * b.box_scale_y};
}

__device__ __forceinline__ bool has_area(const Box& box) {
  return is_finite(box.x1) && is_finite(box.y1) && is_finite(box.x2) && is_finite(box.y2) && box.x2 > box.x1 &&
         box.y2 > box.y1;
}

__device__ __forceinline__ float to_display(float model, double offset, double scale, float size) {
  return static_cast<float>(fmin(fmax((model - offset) / scale, 0.0), static_cast<double>(size)));
}

// Clipped to the picture; without area if it lies outside.
__device__ inline Box to_display(const View& view, const Box& box) {
  return {to_display(box.x1, view.offset_x, view.scale_x, view.width),
          to_display(box.y1, view.offset_y, view.scale_y, view.height),
          to_display(box.x2, view.offset_x, view.scale_x, view.width),
          to_display(box.y2, view.offset_y, view.scale_y, view.height)};
}

// Whether intersection over union is above the threshold: in double precision, as in the reference.
__device__ inline bool overlap(const Box& a, const Box& c, double threshold) {
  const double width = static_cast<double>(fminf(a.x2, c.x2)) - fmaxf(a.x1, c.x1);
  const double height = static_cast<double>(fminf(a.y2, c.y2)) - fmaxf(a.y1, c.y1);
  if (!(width > 0 && height > 0)) return false;
  const double shared = width * height;
  const double area_a = (static_cast<double>(a.x2) - a.x1) * (static_cast<double>(a.y2) - a.y1);
  const double area_c = (static_cast<double>(c.x2) - c.x1) * (static_cast<double>(c.y2) - c.y1);
  return shared / (area_a + area_c - shared) > threshold;
}

__device__ __forceinline__ bool rivals(const Batch& b, int class_a, int class_c) {
  return b.class_agnostic || class_a == class_c;
}

// Boxes and classes of the keys taken; those without area, and those that boxes kept before suppress, are not alive.
__device__ __forceinline__ void decode_taken(const Batch& b, Work& w, int frame, const Kept* kept) {
  for_all([&](unsigned thread, unsigned threads) {
    for (unsigned i = thread; i < w.taken; i += threads) {
      const unsigned index = index_of(w.keys[i]), anchor = index / b.columns;
      long long class_id = index % b.columns + b.class_offset;
      if (b.walk == kGivenClass) class_of_anchor(b, frame, anchor, &class_id);
      const Box box = decode(b, frame, anchor);
      bool alive = has_area(box);
      if (b.iou_threshold >= 0)
        for (unsigned k = 0; alive && k < w.kept; k++)
          alive = !(rivals(b, kept[k].class_id, static_cast<int>(class_id)) && overlap(kept[k].box, box, b.iou_threshold));
      w.boxes[i] = box;
      w.class_ids[i] = static_cast<int>(class_id);
      w.places[i] = -1;
      w.alive[i] = alive;
      w.visible[i] = alive && has_area(to_display(b.views[frame], box));
    }
  });
}

// Grid: frames.
extern "C" __global__ void __launch_bounds__(kFinishThreads) finish(const __grid_constant__ Batch b) {
  __shared__ Work w;
  const int frame = blockIdx.x;
  Tally* tally = reinterpret_cast<Tally*>(b.tallies) + frame;
  const Key* keys = reinterpret_cast<const Key*>(b.keys) + static_cast<long long>(frame) * b.capacity;
  Kept* kept = reinterpret_cast<Kept*>(b.kept) + static_cast<long long>(frame) * b.kept_capacity;
  Header* header = reinterpret_cast<Header*>(b.results + static_cast<unsigned long long>(frame) * b.result_bytes);
  Row* rows = reinterpret_cast<Row*>(header + 1);
  const unsigned count = tally->count, most = b.most, kept_capacity = b.kept_capacity;
  const bool crowded = count > static_cast<unsigned>(b.capacity), suppressing = b.iou_threshold >= 0;
  const auto each = [&](unsigned thread, unsigned threads, auto visit) {
    if (crowded) {
      walk(b, frame, thread, threads, [&](float score, unsigned index) { visit(key_of(score, index)); });
    } else {
      for (unsigned i = thread; i < count; i += threads) visit(keys[i]);
    }
  };
  for_all([&](unsigned thread, unsigned) {
    if (thread == 0) w.kept = 0, w.shown = 0, w.floor = 0, w.below = ~Key(0);
  });
  unsigned done = 0;
  bool cut = false;
  while (!cut && w.shown < most && (crowded || done < count)) {
    if (crowded || count - done > kChunk) {
      select(w, kChunk, kChunk / 2, each);
    } else {
      for_all([&](unsigned thread, unsigned) {
        if (thread == 0) w.floor = 0;
      });
    }
    take(w, each);
    const unsigned taken = w.taken;
    if (taken == 0) break;
    done += taken;
    sort(w);
    decode_taken(b, w, frame, kept);
    for (unsigned i = 0; i < taken && !cut && w.shown < most; i++) {
      if (!w.alive[i]) continue;
      if (suppressing && w.kept == kept_capacity) {
        cut = true;
        break;
      }
      for_all([&](unsigned thread, unsigned threads) {
        if (thread == 0) {
          if (suppressing) kept[w.kept++] = {w.boxes[i], w.class_ids[i]};
          if (w.visible[i]) w.places[i] = w.shown++;
        }
        if (!suppressing) return;
        // Each pair is looked at by the thread of the weaker box.
        for (unsigned j = i + 1 + thread; j < taken; j += threads)
          if (w.alive[j] && rivals(b, w.class_ids[i], w.class_ids[j]) && overlap(w.boxes[i], w.boxes[j], b.iou_threshold))
            w.alive[j] = 0;
      });
    }
    for_all([&](unsigned thread, unsigned threads) {
      for (unsigned i = thread; i < taken; i += threads)
        if (w.places[i] >= 0)
          rows[w.places[i]] = {to_display(b.views[frame], w.boxes[i]), score_of(w.keys[i]), w.class_ids[i]};
      if (thread == 0) w.below = w.keys[taken - 1];
    });
  }
  for_all([&](unsigned thread, unsigned) {
    if (thread) return;
    *header = {static_cast<int>(w.shown), crowded, cut, __uint_as_float(tally->largest)};
    *tally = {0, 0};
  });
}

// --- classification ----------------------------------------------------------------------------------------------------

// The probability of a class; -1 where it is not a number.
__device__ __forceinline__ float class_score(const Batch& b, int frame, unsigned column, float largest, float sum) {
  const Tensor& t = b.levels[0].scores;
  const float raw = static_cast<float>(number(t, frame * t.frame_stride + column));
  float score = raw;
  if (b.activation == kSigmoid) score = sigmoid(raw);
  if (b.activation == kSoftmax) score = expf(raw - largest) / sum;
  if (raw - raw != 0 && raw > 0) return -1;  // Plus infinity means overflow.
  return score == score ? score : -1;
}

// Grid: frames.
extern "C" __global__ void __launch_bounds__(kFinishThreads) classify(const __grid_constant__ Batch b) {
  __shared__ Work w;
  __shared__ unsigned improbable, count;
  const int frame = blockIdx.x;
  const unsigned columns = b.columns, most = b.most;
  const Tensor& t = b.levels[0].scores;
  Header* header = reinterpret_cast<Header*>(b.results + static_cast<unsigned long long>(frame) * b.result_bytes);
  ClassRow* rows = reinterpret_cast<ClassRow*>(header + 1);
  float largest = 0, sum = 1;
  const auto all = [&](auto start, auto fold, auto term) {
    for_all([&](unsigned thread, unsigned threads) {
      double value = start;
      for (unsigned i = thread; i < columns; i += threads)
        value = fold(value, term(static_cast<float>(number(t, frame * t.frame_stride + i))));
      w.partial[thread] = value;
      if (thread == 0) w.sure = threads;
    });
    double value = start;
    for (unsigned i = 0; i < w.sure; i++) value = fold(value, w.partial[i]);
    return static_cast<float>(value);
  };
  if (b.activation == kSoftmax) {
    largest = all(
        -__uint_as_float(0x7f800000u), [](double a, double c) { return fmax(a, c); }, [](float x) { return x; });
    // Not a number, and so all scores, if any of the numbers is infinite upwards or none.
    sum = all(0., [](double a, double c) { return a + c; }, [&](float x) { return expf(x - largest); });
  }
  const auto each = [&](unsigned thread, unsigned threads, auto visit) {
    for (unsigned i = thread; i < columns; i += threads) {
      const float score = class_score(b, frame, i, largest, sum);
      if (score > kLargestProbability) atomicMax(&improbable, __float_as_uint(score));
      const unsigned bits = __float_as_uint(fminf(score, 1.f) + 0.f);
      visit(static_cast<Key>(bits >> 31 ? ~bits : bits | 0x80000000u) << 32 | (0xffffffffu - i));
    }
  };
  for_all([&](unsigned thread, unsigned) {
    if (thread == 0) improbable = 0, count = 0, w.floor = 0, w.below = ~Key(0);
  });
  if (columns > kChunk) select(w, most, most, each);
  take(w, each);
  sort(w);
  for_all([&](unsigned thread, unsigned threads) {
    for (unsigned i = thread; i < most; i += threads) {
      const unsigned ordered = static_cast<unsigned>(w.keys[i] >> 32);
      const float score = ordered >> 31 ? __uint_as_float(ordered ^ 0x80000000u) : __uint_as_float(~ordered);
      rows[i] = {fmaxf(score, 0.f), static_cast<int>(index_of(w.keys[i])) + b.class_offset};
      if (score >= b.least) atomicAdd(&count, 1u);
    }
  });
  for_all([&](unsigned thread, unsigned) {
    if (thread == 0) *header = {static_cast<int>(count), 0, 0, __uint_as_float(improbable)};
  });
}

// --- segmentation ------------------------------------------------------------------------------------------------------

constexpr unsigned char kNoClass = 255;

// Class numbers as the model gives them.
__device__ __forceinline__ unsigned char class_of_number(const Maps& m, long long i) {
  const double given = number(m.scores, i);
  return given >= 0 && given < kNoClass ? m.numbers[static_cast<unsigned>(given)] : kNoClass;
}

template <typename Scores>
__device__ __forceinline__ unsigned char class_of_pixel(const Maps& m, Scores scores, long long origin,
                                                        unsigned* improbable) {
  const long long stride = m.scores.column_stride;
  float best = scores(origin);
  int channel = 0;
  bool defined = best == best;
  for (int i = 1; i < m.channels; i++) {
    const float raw = scores(origin + i * stride);
    defined = defined && raw == raw;
    if (raw > best) best = raw, channel = i;
  }
  if (!defined || !is_finite(best)) return kNoClass;
  if (m.least >= 0) {
    float probability = m.activation == kSigmoid ? sigmoid(best) : best;
    if (m.activation == kSoftmax) {
      float sum = 0;
      for (int i = 0; i < m.channels; i++) sum += expf(scores(origin + i * stride) - best);
      probability = 1 / sum;
    }
    if (probability > kLargestProbability) atomicMax(improbable, __float_as_uint(probability));
    if (!(probability >= m.least)) return kNoClass;
  }
  return m.numbers[channel];
}

// Grid: (any, frames).
extern "C" __global__ void __launch_bounds__(kCollectThreads) segment(const __grid_constant__ Maps m) {
  __shared__ unsigned improbable;
  const int frame = blockIdx.y;
  unsigned* largest = reinterpret_cast<unsigned*>(m.results + static_cast<unsigned long long>(frame) * m.result_bytes);
  unsigned char* classes = reinterpret_cast<unsigned char*>(largest + gridDim.x);
  const long long start = frame * m.scores.frame_stride;
  for_all([&](unsigned thread, unsigned) {
    if (thread == 0) improbable = 0;
  });
  for_all([&](unsigned thread, unsigned threads) {
    const unsigned step = gridDim.x * threads, pixels = m.pixels;
    for (unsigned i = blockIdx.x * threads + thread; i < pixels; i += step) {
      const long long origin = start + static_cast<long long>(i) * m.scores.row_stride;
      if (m.whole) {
        classes[i] = class_of_number(m, origin);
        continue;
      }
      switch (m.scores.type) {
        case kSingle: classes[i] = class_of_pixel(m, Singles{m.scores.data}, origin, &improbable); break;
        case kHalf: classes[i] = class_of_pixel(m, Halves{m.scores.data}, origin, &improbable); break;
        default: classes[i] = class_of_pixel(m, Others{m.scores}, origin, &improbable);
      }
    }
  });
  for_all([&](unsigned thread, unsigned) {
    if (thread == 0) largest[blockIdx.x] = improbable;
  });
}
