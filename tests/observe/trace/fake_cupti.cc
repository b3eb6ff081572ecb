// A CUPTI that records always the same: its records are those of NVIDIA's header, which TensorFlow's wheel has.
#include <cupti.h>

#include <cstring>

namespace {

CUpti_BuffersCallbackRequestFunc request = nullptr;
CUpti_BuffersCallbackCompleteFunc complete = nullptr;
int enabled = 0;
bool is_new = true;
size_t dropped = 0;

template <typename Record>
void Add(uint8_t* data, size_t* used, const Record& record) {
  std::memcpy(data + *used, &record, sizeof(record));
  *used += sizeof(record);
}

CUpti_ActivityAPI Api(CUpti_ActivityKind kind, uint32_t id, uint64_t start, uint32_t correlation) {
  CUpti_ActivityAPI api{};
  std::memset(&api, 0xEE, sizeof(api));
  api.kind = kind;
  api.cbid = id;
  api.start = start;
  api.end = start + 5;
  api.threadId = 4242;
  api.correlationId = correlation;
  return api;
}

CUpti_ActivityMemcpy5 Memcpy(uint8_t way, uint8_t source, uint8_t target, uint64_t bytes, uint32_t correlation) {
  CUpti_ActivityMemcpy5 copy{};
  std::memset(&copy, 0xEE, sizeof(copy));
  copy.kind = CUPTI_ACTIVITY_KIND_MEMCPY;
  copy.copyKind = way;
  copy.srcKind = source;
  copy.dstKind = target;
  copy.bytes = bytes;
  copy.start = 1000 + correlation;
  copy.correlationId = correlation;
  return copy;
}

CUpti_ActivitySynchronization Synchronization(CUpti_ActivitySynchronizationType type, uint32_t correlation) {
  CUpti_ActivitySynchronization wait{};
  std::memset(&wait, 0xEE, sizeof(wait));
  wait.kind = CUPTI_ACTIVITY_KIND_SYNCHRONIZATION;
  wait.type = type;
  wait.start = 2000 + correlation;
  wait.correlationId = correlation;
  return wait;
}

size_t SizeOf(const CUpti_Activity* record) {
  switch (record->kind) {
    case CUPTI_ACTIVITY_KIND_DRIVER:
    case CUPTI_ACTIVITY_KIND_RUNTIME: return sizeof(CUpti_ActivityAPI);
    case CUPTI_ACTIVITY_KIND_MEMCPY: return sizeof(CUpti_ActivityMemcpy5);
    case CUPTI_ACTIVITY_KIND_MEMCPY2: return sizeof(CUpti_ActivityMemcpyPtoP4);
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: return sizeof(CUpti_ActivityKernel9);
    case CUPTI_ACTIVITY_KIND_SYNCHRONIZATION: return sizeof(CUpti_ActivitySynchronization);
    default: return sizeof(CUpti_ActivityMemset4);
  }
}

}  // namespace

extern "C" {

int fake_result = 0;  // what enabling a kind says

void fake_drop(size_t count) { dropped = count; }
int fake_enabled() { return enabled; }

CUptiResult cuptiSetThreadIdType(CUpti_ActivityThreadIdType type) {
  return type == CUPTI_ACTIVITY_THREAD_ID_TYPE_SYSTEM ? CUPTI_SUCCESS : CUPTI_ERROR_INVALID_PARAMETER;
}
CUptiResult cuptiActivityRegisterCallbacks(CUpti_BuffersCallbackRequestFunc r, CUpti_BuffersCallbackCompleteFunc c) {
  request = r;
  complete = c;
  is_new = true;
  return CUPTI_SUCCESS;
}
CUptiResult cuptiActivityEnable(CUpti_ActivityKind) {
  if (fake_result) return static_cast<CUptiResult>(fake_result);
  ++enabled;
  return CUPTI_SUCCESS;
}
CUptiResult cuptiActivityDisable(CUpti_ActivityKind) {
  --enabled;
  return CUPTI_SUCCESS;
}
CUptiResult cuptiActivityFlushAll(uint32_t flag) {
  if (flag != CUPTI_ACTIVITY_FLAG_FLUSH_FORCED) return CUPTI_ERROR_INVALID_PARAMETER;
  if (!is_new) return CUPTI_SUCCESS;
  is_new = false;
  uint8_t* data = nullptr;
  size_t size = 0, most = 0, used = 0;
  request(&data, &size, &most);
  Add(data, &used, Api(CUPTI_ACTIVITY_KIND_RUNTIME, 1, 100, 1));
  Add(data, &used, Memcpy(CUPTI_ACTIVITY_MEMCPY_KIND_HTOD, CUPTI_ACTIVITY_MEMORY_KIND_PINNED,
                          CUPTI_ACTIVITY_MEMORY_KIND_DEVICE, 7'000'000'000, 1));
  complete(nullptr, 0, data, size, used);
  request(&data, &size, &most);
  used = 0;
  Add(data, &used, Api(CUPTI_ACTIVITY_KIND_DRIVER, 2, 200, 2));
  CUpti_ActivityKernel9 kernel{};
  std::memset(&kernel, 0xEE, sizeof(kernel));
  kernel.kind = CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL;
  kernel.start = 3002;
  kernel.correlationId = 2;
  Add(data, &used, kernel);
  CUpti_ActivityMemset4 ignored{};
  ignored.kind = CUPTI_ACTIVITY_KIND_MEMSET;
  ignored.bytes = 77;
  Add(data, &used, ignored);
  CUpti_ActivityMemcpyPtoP4 peer{};
  std::memset(&peer, 0xEE, sizeof(peer));
  peer.kind = CUPTI_ACTIVITY_KIND_MEMCPY2;
  peer.bytes = 55;
  peer.start = 4003;
  peer.correlationId = 3;
  Add(data, &used, peer);
  Add(data, &used, Memcpy(CUPTI_ACTIVITY_MEMCPY_KIND_DTOH, CUPTI_ACTIVITY_MEMORY_KIND_DEVICE,
                          CUPTI_ACTIVITY_MEMORY_KIND_PAGEABLE, 12, 4));
  Add(data, &used, Memcpy(CUPTI_ACTIVITY_MEMCPY_KIND_DTOD, CUPTI_ACTIVITY_MEMORY_KIND_DEVICE,
                          CUPTI_ACTIVITY_MEMORY_KIND_DEVICE, 13, 5));
  Add(data, &used, Synchronization(CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_WAIT_EVENT, 6));
  Add(data, &used, Synchronization(CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_EVENT_SYNCHRONIZE, 7));
  Add(data, &used, Synchronization(CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_CONTEXT_SYNCHRONIZE, 8));
  complete(nullptr, 0, data, size, used);
  return CUPTI_SUCCESS;
}
CUptiResult cuptiActivityGetNumDroppedRecords(CUcontext, uint32_t, size_t* count) {
  *count = dropped;
  return CUPTI_SUCCESS;
}
CUptiResult cuptiActivityGetNextRecord(uint8_t* data, size_t valid, CUpti_Activity** record) {
  uint8_t* next = *record == nullptr ? data : reinterpret_cast<uint8_t*>(*record) + SizeOf(*record);
  if (next >= data + valid) return CUPTI_ERROR_MAX_LIMIT_REACHED;
  *record = reinterpret_cast<CUpti_Activity*>(next);
  return CUPTI_SUCCESS;
}
CUptiResult cuptiGetCallbackName(CUpti_CallbackDomain domain, uint32_t id, const char** name) {
  *name = domain == CUPTI_CB_DOMAIN_RUNTIME_API && id == 1  ? "cudaMemcpyAsync_v3020"
          : domain == CUPTI_CB_DOMAIN_DRIVER_API && id == 2 ? "cuLaunchKernel"
                                                            : nullptr;
  return CUPTI_SUCCESS;
}
CUptiResult cuptiGetResultString(CUptiResult, const char** text) {
  *text = "CUPTI_ERROR_SOMETHING";
  return CUPTI_SUCCESS;
}
CUptiResult cuptiGetTimestamp(uint64_t* now) {
  static uint64_t clock = 5'000'000'000'000'000'000;
  *now = ++clock;
  return CUPTI_SUCCESS;
}

}  // extern "C"
