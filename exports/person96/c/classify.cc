#include "classify.h"

#include "model_data.h"
#include "model_settings.h"
#include "op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

// To place the arena, for example __attribute__((section(".dtcm"))).
#ifndef EDGEPRUNE_ARENA
#define EDGEPRUNE_ARENA
#endif

namespace edgeprune_person96_b_457ed2f3 {
namespace {

alignas(16) uint8_t g_arena[kArenaBytes] EDGEPRUNE_ARENA;
tflite::MicroInterpreter* g_interpreter = nullptr;

bool Matches(const TfLiteTensor* tensor, const int32_t* shape, int rank, float scale, int32_t zero_point) {
  if (tensor == nullptr || tensor->dims == nullptr || tensor->dims->size != rank) return false;
  for (int axis = 0; axis < rank; ++axis) {
    if (tensor->dims->data[axis] != shape[axis]) return false;
  }
  return tensor->type == kTfLiteInt8 && tensor->params.scale == scale && tensor->params.zero_point == zero_point;
}

Status Prepare() {
  const tflite::Model* model = tflite::GetModel(kModelData);
  if (model->version() != kSchemaVersion) return Status::kSchemaVersion;
  static OpResolver resolver;
  if (RegisterOperators(&resolver) != kTfLiteOk) return Status::kOperators;
  static tflite::MicroInterpreter interpreter(model, resolver, g_arena, kArenaBytes);
  if (interpreter.AllocateTensors() != kTfLiteOk) return Status::kArenaTooSmall;
  const int32_t input_shape[] = {1, kImageSize, kImageSize, kChannels};
  if (interpreter.inputs_size() != 1 || !Matches(interpreter.input(0), input_shape, 4, kInputScale, kInputZeroPoint)) {
    return Status::kInputTensor;
  }
  const int32_t output_shape[] = {1, kClasses};
  if (interpreter.outputs_size() != 1 ||
      !Matches(interpreter.output(0), output_shape, 2, kOutputScale, kOutputZeroPoint)) {
    return Status::kOutputTensor;
  }
  if (interpreter.arena_used_bytes() > kArenaBytes) return Status::kArenaUsed;
  g_interpreter = &interpreter;
  return Status::kOk;
}

}  // namespace

Status Setup() {
  static const Status status = Prepare();
  return status;
}

Status Classify(const Frame& frame, Result* result) {
  const Status status = Setup();
  if (status != Status::kOk) return status;
  // Asked for anew each time: TFLite Micro may use the input's memory for other tensors while it runs.
  if (!PreprocessFrame(frame, g_interpreter->input(0)->data.int8)) return Status::kFrame;
  if (g_interpreter->Invoke() != kTfLiteOk) return Status::kInvoke;
  const int8_t* output = g_interpreter->output(0)->data.int8;
  int32_t best = 0;
  int8_t second = -128;
  for (int32_t label = 1; label < kClasses; ++label) {
    if (output[label] > output[best]) {
      second = output[best];
      best = label;
    } else if (output[label] > second) {
      second = output[label];
    }
  }
  result->label = best;
  result->stored = output[best];
  result->runner_up = second;
  result->score = kOutputScale * static_cast<float>(output[best] - kOutputZeroPoint);
  return Status::kOk;
}

tflite::MicroInterpreter* Interpreter() {
  return g_interpreter;
}

}  // namespace edgeprune_person96_b_457ed2f3
