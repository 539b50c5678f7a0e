#include "self_test.h"

#include "golden.h"

namespace edgeprune_person96_b_457ed2f3 {
namespace {

int Fail(SelfTestHook hook, Status status, int32_t image, int32_t element, int32_t found, int32_t expected) {
  if (hook != nullptr) hook(status, image, element, found, expected);
  return static_cast<int>(status);
}

}  // namespace

int RunSelfTest(SelfTestHook hook) {
  const Status status = Setup();
  if (status != Status::kOk) return Fail(hook, status, -1, 0, 0, 0);
  tflite::MicroInterpreter* interpreter = Interpreter();
  for (int32_t image = 0; image < kGoldenImages; ++image) {
    const Frame frame = {kGoldenPixels[image], kImageSize, kImageSize, 0, PixelFormat::kRgb888};
    int8_t* input = interpreter->input(0)->data.int8;
    if (!PreprocessFrame(frame, input)) return Fail(hook, Status::kFrame, image, 0, 0, 0);
    for (size_t i = 0; i < kInputBytes; ++i) {
      const int8_t expected = kGoldenInputs[image][i];
      if (input[i] != expected) {
        return Fail(hook, Status::kPreprocess, image, static_cast<int32_t>(i), input[i], expected);
      }
    }
    if (interpreter->Invoke() != kTfLiteOk) return Fail(hook, Status::kInvoke, image, 0, 0, 0);
    const int8_t* output = interpreter->output(0)->data.int8;
    for (int32_t i = 0; i < kClasses; ++i) {
      const int32_t expected = kGoldenOutputs[image][i];
      const int32_t difference = output[i] - expected;
      if (difference > kGoldenToleranceLsb || difference < -kGoldenToleranceLsb) {
        return Fail(hook, Status::kGoldenOutput, image, i, output[i], expected);
      }
    }
  }
  return 0;
}

}  // namespace edgeprune_person96_b_457ed2f3

#ifdef EDGEPRUNE_SELF_TEST_MAIN
int main() {
  return edgeprune_person96_b_457ed2f3::RunSelfTest();
}
#endif
