// The JSON text of a batch's detections: what pipeline/sinks/_detection_texts.py writes, byte for byte, where this library is
// there anyway. A busy scene has a hundred boxes a frame, and there are thousands of frames a second; the rest of the frame's
// way is in Python, whose lock is what they all share.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define VRAMLINE_EXPORT extern "C" __attribute__((used, visibility("default")))

namespace {

// Four decimals of a score, two of a box.
constexpr int64_t kScoreScale = 10000;
constexpr int64_t kBoxScale = 100;
// Below this a number of hundredths or ten-thousandths has at most 15 digits, and is the shortest text of its double.
constexpr double kMost = 1e9;
constexpr int64_t kUnusual = -1;

char* put(char* to, const char* text, size_t size) {
  std::memcpy(to, text, size);
  return to + size;
}

char* put_digits(char* to, uint64_t number) {
  char digits[20];
  int count = 0;
  do digits[count++] = static_cast<char>('0' + number % 10);
  while ((number /= 10) != 0);
  while (count > 0) *to++ = digits[--count];
  return to;
}

// In whole parts of a power of 10, half to even; zeros at the end are left out, but for the first decimal.
template <int64_t kScale>
char* put_rounded(char* to, float value) {
  int64_t number = std::llrint(static_cast<double>(value) * static_cast<double>(kScale));
  if (number < 0) {
    *to++ = '-';
    number = -number;
  }
  to = put_digits(to, static_cast<uint64_t>(number / kScale));
  *to++ = '.';
  int64_t rest = number % kScale;
  do {
    rest *= 10;
    *to++ = static_cast<char>('0' + rest / kScale);
    rest %= kScale;
  } while (rest != 0);
  return to;
}

bool is_usual(float value) { return std::fabs(static_cast<double>(value)) < kMost; }  // NaN is not

}  // namespace

// Writes a JSON array for each frame, one behind another.
//   offsets: frames + 1; frame i owns the detections offsets[i] to offsets[i + 1].
//   boxes, scores, class_ids: of each detection, boxes with 4 numbers.
//   track_ids: negative for none; null where nothing tracks.
//   heads: what stands in front of the score, of one class behind another; head_of: class id -> its number, negative if there is
//     none yet; head_ends: number -> where it ends in `heads`.
//   text: has room; ends: where each frame's array ends in it.
// Returns 0; -1 where a number is to be written in another way; -2 - i where detection i is of a class without a head.
VRAMLINE_EXPORT int64_t vramline_detection_texts(int64_t frames, const int64_t* offsets, const float* boxes, const float* scores,
                                                 const int32_t* class_ids, const int64_t* track_ids, const char* heads,
                                                 const int32_t* head_of, int32_t head_of_size, const int64_t* head_ends,
                                                 char* text, int64_t* ends) {
  char* to = text;
  for (int64_t frame = 0; frame < frames; frame++) {
    *to++ = '[';
    for (int64_t i = offsets[frame]; i < offsets[frame + 1]; i++) {
      const int32_t class_id = class_ids[i];
      const int32_t head = class_id < 0 || class_id >= head_of_size ? -1 : head_of[class_id];
      if (head < 0) return -2 - i;
      const float* box = boxes + 4 * i;
      if (!is_usual(scores[i]) || !is_usual(box[0]) || !is_usual(box[1]) || !is_usual(box[2]) || !is_usual(box[3])) return kUnusual;
      if (i > offsets[frame]) *to++ = ',';
      const int64_t begin = head == 0 ? 0 : head_ends[head - 1];
      to = put(to, heads + begin, static_cast<size_t>(head_ends[head] - begin));
      to = put_rounded<kScoreScale>(to, scores[i]);
      to = put(to, ",\"box\":[", 8);
      for (int k = 0; k < 4; k++) {
        if (k > 0) *to++ = ',';
        to = put_rounded<kBoxScale>(to, box[k]);
      }
      *to++ = ']';
      if (track_ids != nullptr && track_ids[i] >= 0) {
        to = put(to, ",\"track_id\":", 12);
        to = put_digits(to, static_cast<uint64_t>(track_ids[i]));
      }
      *to++ = '}';
    }
    *to++ = ']';
    ends[frame] = to - text;
  }
  return 0;
}
