// Memory for the activity records of CUPTI, NVIDIA's tracing library. It asks for buffers and returns them in whatever thread
// calls CUDA, with locks of its own held: a callback into Python would wait for the interpreter there, and whoever has
// the interpreter may be waiting for CUPTI. So these two are native, and Python fetches full buffers when it likes to.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <mutex>

#define VRAMLINE_EXPORT extern "C" __attribute__((used, visibility("default")))

namespace {

constexpr size_t kBufferBytes = 1 << 20;
constexpr size_t kAlignment = 64;  // CUPTI needs 8
// Records differ in size, and Python reads as much of the last one as of the largest.
constexpr size_t kSlackBytes = 128;

struct Filled {
  uint8_t* data;
  size_t bytes;
};

std::mutex mutex;
std::deque<Filled> filled;

}  // namespace

// CUpti_BuffersCallbackRequestFunc; without memory CUPTI drops records, and counts them.
VRAMLINE_EXPORT void vramline_activity_request(uint8_t** data, size_t* bytes, size_t* most_records) {
  *data = static_cast<uint8_t*>(std::aligned_alloc(kAlignment, kBufferBytes + kSlackBytes));
  *bytes = *data == nullptr ? 0 : kBufferBytes;
  *most_records = 0;  // as many as fit
}

// CUpti_BuffersCallbackCompleteFunc.
VRAMLINE_EXPORT void vramline_activity_complete(void* /*context*/, uint32_t /*stream*/, uint8_t* data, size_t /*bytes*/,
                                                size_t valid_bytes) {
  const std::lock_guard<std::mutex> held(mutex);
  filled.push_back({data, valid_bytes});
}

// The oldest buffer that is full, which now belongs to the caller; 0: there is none.
VRAMLINE_EXPORT int vramline_activity_take(uint8_t** data, size_t* valid_bytes) {
  const std::lock_guard<std::mutex> held(mutex);
  if (filled.empty()) return 0;
  *data = filled.front().data;
  *valid_bytes = filled.front().bytes;
  filled.pop_front();
  return 1;
}

VRAMLINE_EXPORT void vramline_activity_free(uint8_t* data) { std::free(data); }
