// Two TensorFlow ops for work beside TensorFlow on its own CUDA stream. Neither waits for the device. Host code only: a C++
// compiler and the headers in TensorFlow's wheel are enough, no CUDA toolkit.
//
//   VramlineStreamInfo()      -> info int32 [3, 2]: CUstream, number of the CUDA device, 1 on a GPU and 0 elsewhere
//   VramlineExport(list of T) -> the same tensors, addresses int32 [n, 2]: where each tensor's first element lies
//
// 64-bit numbers travel as pairs of int32, low half first: functions return int32 in host memory, which can be read at once.
// An int64 would be copied to the device and back, and reading it would wait for everything in between.
#include <cstdint>
#include <cstring>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "xla/stream_executor/stream.h"

// Looked for in the file's bytes before it is loaded: a library for another TensorFlow could end the process.
extern "C" __attribute__((used, visibility("default"))) const char vramline_built_for[] =
    "vramline-stream-op/tensorflow=" VRAMLINE_TENSORFLOW_VERSION ";";

namespace vramline {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::shape_inference::InferenceContext;

void SetPair(Tensor* pairs, int row, int64_t value) {
  std::memcpy(pairs->flat<int32_t>().data() + 2 * row, &value, sizeof(value));
}

int64_t AddressOf(const void* pointer) { return static_cast<int64_t>(reinterpret_cast<intptr_t>(pointer)); }

class StreamInfoOp : public OpKernel {
 public:
  explicit StreamInfoOp(OpKernelConstruction* construction) : OpKernel(construction) {}

  void Compute(OpKernelContext* context) override {
    Tensor* info = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({3, 2}), &info));
    const auto* accelerator = context->device()->tensorflow_accelerator_device_info();
    const auto* device = context->op_device_context();
    const bool has_stream = device != nullptr && device->stream() != nullptr;
    SetPair(info, 0, has_stream ? AddressOf(device->stream()->platform_specific_handle().stream) : 0);
    SetPair(info, 1, accelerator != nullptr ? accelerator->gpu_id : -1);
    SetPair(info, 2, accelerator != nullptr ? 1 : 0);
  }
};

class ExportOp : public OpKernel {
 public:
  explicit ExportOp(OpKernelConstruction* construction) : OpKernel(construction) {}

  void Compute(OpKernelContext* context) override {
    const int count = context->num_inputs();
    Tensor* addresses = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(count, TensorShape({count, 2}), &addresses));
    for (int i = 0; i < count; ++i) {
      // Passed through, so that the address is that of the very buffer which the caller gets.
      context->set_output(i, context->input(i));
      SetPair(addresses, i, AddressOf(context->input(i).tensor_data().data()));
    }
  }
};

// Stateful: TensorFlow's optimiser neither folds nor merges nor removes them.
REGISTER_OP("VramlineStreamInfo").Output("info: int32").SetIsStateful().SetShapeFn([](InferenceContext* context) {
  context->set_output(0, context->Matrix(3, 2));
  return absl::OkStatus();
});

REGISTER_OP("VramlineExport")
    .Input("inputs: T")
    .Output("outputs: T")
    .Output("addresses: int32")
    .Attr("T: list(type) >= 1")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* context) {
      const int count = context->num_inputs();
      for (int i = 0; i < count; ++i) context->set_output(i, context->input(i));
      context->set_output(count, context->Matrix(count, 2));
      return absl::OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("VramlineStreamInfo").Device(tensorflow::DEVICE_CPU), StreamInfoOp);
REGISTER_KERNEL_BUILDER(Name("VramlineStreamInfo").Device(tensorflow::DEVICE_GPU).HostMemory("info"), StreamInfoOp);
REGISTER_KERNEL_BUILDER(Name("VramlineExport").Device(tensorflow::DEVICE_CPU), ExportOp);
REGISTER_KERNEL_BUILDER(Name("VramlineExport").Device(tensorflow::DEVICE_GPU).HostMemory("addresses"), ExportOp);

}  // namespace vramline
