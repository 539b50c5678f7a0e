// What the firmware must know about model_int8.tflite of the bundle person96-b-457ed2f3.
#ifndef EDGEPRUNE_PERSON96_B_457ED2F3_MODEL_SETTINGS_H_
#define EDGEPRUNE_PERSON96_B_457ED2F3_MODEL_SETTINGS_H_

#include <stddef.h>
#include <stdint.h>

// Bytes to add to the arena where a port's kernels need more scratch than is allowed for below.
#ifndef EDGEPRUNE_PERSON96_B_457ED2F3_ARENA_EXTRA_BYTES
#define EDGEPRUNE_PERSON96_B_457ED2F3_ARENA_EXTRA_BYTES 0
#endif

namespace edgeprune_person96_b_457ed2f3 {

constexpr uint32_t kSchemaVersion = 3;

// The input is int8, shape {1, kImageSize, kImageSize, kChannels}: red, green, blue.
constexpr int32_t kImageSize = 96;
constexpr int32_t kChannels = 3;
constexpr size_t kInputBytes = 27648;
// The output is int8, shape {1, kClasses}: one score a class, larger is likelier.
constexpr int32_t kClasses = 2;
extern const char* const kLabels[kClasses];

// The operating threshold, chosen on images held out of training: class 1 where its output is more than this above
// that of class 0, as stored. Neither scale nor softmax is needed; 0 would decide for the larger one.
constexpr int32_t kDecisionDifference = -32;
inline int32_t DecideLabel(const int8_t* output) {
  return output[1] - output[0] > kDecisionDifference ? 1 : 0;
}

// real = scale * (stored - zero point)
constexpr float kInputScale = 0.018706702f;
constexpr int32_t kInputZeroPoint = -14;
constexpr float kOutputScale = 0.042020284f;
constexpr int32_t kOutputZeroPoint = 5;

// input = clamp((pixel * kPixelMultiplier[c] + kPixelOffset[c]) >> kPixelShift, -128, 127), >> rounds down
constexpr int32_t kPixelMultiplier[kChannels] = {3839609, 3925315, 3907869};
constexpr int32_t kPixelOffset[kChannels] = {-531486769, -513058702, -461204771};
constexpr int kPixelShift = 22;
// Whether the network is fed the image rotated by 180 degrees; PreprocessFrame does it.
constexpr bool kRotate180 = false;

// Tensor memory, measured in tflite-micro 0.dev20261023182759. Head: activations, the same on every device.
constexpr size_t kArenaHeadBytes = 46080;
// Tail: the runtime's own structures, on a 64-bit host; a device with 32-bit pointers needs less.
constexpr size_t kArenaTailBytes = 41280;
// Allowance for the scratch of CMSIS-NN kernels, from their formulas; the reference kernels need none.
constexpr size_t kArenaScratchBytes = 12992;
constexpr size_t kArenaBytes = 100352 + EDGEPRUNE_PERSON96_B_457ED2F3_ARENA_EXTRA_BYTES;

static_assert(kArenaBytes % 16 == 0, "the arena is a multiple of 16 bytes");
static_assert(kInputBytes == size_t{kImageSize} * kImageSize * kChannels, "one byte an element");

}  // namespace edgeprune_person96_b_457ed2f3

#endif  // EDGEPRUNE_PERSON96_B_457ED2F3_MODEL_SETTINGS_H_
