// The JSON text of a batch's detections, and the lines that hold it: what pipeline/sinks/jsonl.py writes, byte for byte, where
// this library is there anyway. A busy scene has a hundred boxes a frame, and there are thousands of frames a second; the rest
// of the frame's way is in Python, whose lock is what they all share.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define VRAMLINE_EXPORT extern "C" __attribute__((used, visibility("default")))

namespace {

// Four decimals of a score, two of a box, six of a time.
constexpr int64_t kScoreScale = 10000;
constexpr int64_t kBoxScale = 100;
constexpr int64_t kMicroseconds = 1000000;
constexpr int64_t kSecondsOfDay = 86400;
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

char* put_digits(char* to, int64_t number, int least) {
  for (int64_t over = 10; least > 1; over *= 10, least--) if (number < over) *to++ = '0';
  return put_digits(to, static_cast<uint64_t>(number));
}

// In whole parts of a power of 10; zeros at the end are left out, but for the first decimal.
template <int64_t kScale>
char* put_parts(char* to, int64_t number) {
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

// Half to even. A float's product is exact.
template <int64_t kScale>
char* put_rounded(char* to, float value) {
  return put_parts<kScale>(to, std::llrint(static_cast<double>(value) * static_cast<double>(kScale)));
}

// A double's is not: `error` is what it lacks.
int64_t in_microseconds(double value) {
  const double product = value * kMicroseconds, error = std::fma(value, kMicroseconds, -product);
  const double nearest = std::nearbyint(product), rest = product - nearest;
  if (rest == 0.5 && error > 0) return static_cast<int64_t>(nearest) + 1;
  if (rest == -0.5 && error < 0) return static_cast<int64_t>(nearest) - 1;
  return static_cast<int64_t>(nearest);
}

// Seconds since 1970 as RFC 3339 in UTC. The calendar: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
char* put_time(char* to, double time_s) {
  const int64_t time = std::llrint(time_s * kMicroseconds), seconds = time / kMicroseconds;
  const int64_t days = seconds / kSecondsOfDay + 719468, era = days / 146097, day_of_era = days % 146097;
  const int64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
  const int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  const int64_t shifted = (5 * day_of_year + 2) / 153, day = day_of_year - (153 * shifted + 2) / 5 + 1;
  const int64_t month = shifted < 10 ? shifted + 3 : shifted - 9, year = year_of_era + era * 400 + (month <= 2);
  const int64_t second = seconds % kSecondsOfDay;
  const int64_t parts[] = {year, month, day, second / 3600, second / 60 % 60, second % 60};
  for (int i = 0; i < 6; i++) {
    to = put_digits(to, parts[i], i == 0 ? 4 : 2);
    *to++ = "--T::."[i];
  }
  to = put_digits(to, time % kMicroseconds, 6);
  *to++ = 'Z';
  return to;
}

bool is_usual(float value) { return std::fabs(static_cast<double>(value)) < kMost; }  // NaN is not

// From 1970 to 9999; and below ten microseconds numbers are written with an exponent.
bool is_usual_time(double time_s) { return time_s >= 0 && time_s < 253402300799.0; }
bool is_usual_pts(double pts_s) {
  return std::isnan(pts_s) || (std::fabs(pts_s) < kMost && (std::fabs(pts_s) < 4e-7 || std::fabs(pts_s) >= 2e-5));
}

// The pieces of a text by their number, one behind another.
struct Pieces {
  const char* text;
  const int64_t* ends;

  char* put(char* to, int64_t number) const {
    const int64_t begin = number == 0 ? 0 : ends[number - 1];
    return ::put(to, text + begin, static_cast<size_t>(ends[number] - begin));
  }
};

}  // namespace

// What stands in front of the detections of each frame of a batch.
//   pieces: of each kind of frame two: in front of its number, and behind its time.
//   kinds: the frame's kind; numbers; pts_s: NaN for none; times_s: since 1970.
struct Fronts {
  Pieces pieces;
  const int32_t* kinds;
  const int64_t* numbers;
  const double* pts_s;
  const double* times_s;

  bool is_usual(int64_t frame) const { return is_usual_pts(pts_s[frame]) && is_usual_time(times_s[frame]); }

  char* put(char* to, int64_t frame) const {
    to = pieces.put(to, 2 * static_cast<int64_t>(kinds[frame]));
    to = put_digits(to, static_cast<uint64_t>(numbers[frame]));
    to = ::put(to, ",\"pts_s\":", 9);
    to = std::isnan(pts_s[frame]) ? ::put(to, "null", 4) : put_parts<kMicroseconds>(to, in_microseconds(pts_s[frame]));
    to = ::put(to, ",\"time\":\"", 9);
    to = put_time(to, times_s[frame]);
    return pieces.put(to, 2 * static_cast<int64_t>(kinds[frame]) + 1);
  }
};

// Writes a JSON array for each frame, one behind another; with `fronts`, a line each, with its line feed.
//   offsets: frames + 1; frame i owns the detections offsets[i] to offsets[i + 1].
//   boxes, scores, class_ids: of each detection, boxes with 4 numbers.
//   track_ids: negative for none; null where nothing tracks.
//   heads: what stands in front of the score, by its number; head_of: class id -> its number, negative if there is none yet.
//   text: has room; ends: where each frame's text ends in it.
// Returns 0; -1 where a number is to be written in another way; -2 - i where detection i is of a class without a head.
VRAMLINE_EXPORT int64_t vramline_detection_lines(int64_t frames, const Fronts* fronts, const int64_t* offsets, const float* boxes,
                                                 const float* scores, const int32_t* class_ids, const int64_t* track_ids,
                                                 const Pieces* heads, const int32_t* head_of, int32_t head_of_size, char* text,
                                                 int64_t* ends) {
  char* to = text;
  for (int64_t frame = 0; frame < frames; frame++) {
    if (fronts != nullptr) {
      if (!fronts->is_usual(frame)) return kUnusual;
      to = fronts->put(to, frame);
    }
    *to++ = '[';
    for (int64_t i = offsets[frame]; i < offsets[frame + 1]; i++) {
      const int32_t class_id = class_ids[i];
      const int32_t head = class_id < 0 || class_id >= head_of_size ? -1 : head_of[class_id];
      if (head < 0) return -2 - i;
      const float* box = boxes + 4 * i;
      if (!is_usual(scores[i]) || !is_usual(box[0]) || !is_usual(box[1]) || !is_usual(box[2]) || !is_usual(box[3])) return kUnusual;
      if (i > offsets[frame]) *to++ = ',';
      to = heads->put(to, head);
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
    if (fronts != nullptr) to = put(to, "}\n", 2);
    ends[frame] = to - text;
  }
  return 0;
}
