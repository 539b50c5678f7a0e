// What the firmware must know about @model_path@ of the bundle @bundle@.
#ifndef @GUARD@_MODEL_SETTINGS_H_
#define @GUARD@_MODEL_SETTINGS_H_

#include <stddef.h>
#include <stdint.h>

// Bytes to add to the arena where a port's kernels need more scratch than is allowed for below.
#ifndef @GUARD@_ARENA_EXTRA_BYTES
#define @GUARD@_ARENA_EXTRA_BYTES 0
#endif

namespace @namespace@ {

constexpr uint32_t kSchemaVersion = 3;

// The input is int8, shape {1, kImageSize, kImageSize, kChannels}: red, green, blue.
constexpr int32_t kImageSize = @image_size@;
constexpr int32_t kChannels = 3;
constexpr size_t kInputBytes = @input_bytes@;
// The output is int8, shape {1, kClasses}: one score a class, larger is likelier.
constexpr int32_t kClasses = @classes@;
extern const char* const kLabels[kClasses];
@decision@
// real = scale * (stored - zero point)
constexpr float kInputScale = @input_scale@;
constexpr int32_t kInputZeroPoint = @input_zero_point@;
constexpr float kOutputScale = @output_scale@;
constexpr int32_t kOutputZeroPoint = @output_zero_point@;

// input = clamp((pixel * kPixelMultiplier[c] + kPixelOffset[c]) >> kPixelShift, -128, 127), >> rounds down
constexpr int32_t kPixelMultiplier[kChannels] = {@multiplier@};
constexpr int32_t kPixelOffset[kChannels] = {@offset@};
constexpr int kPixelShift = @shift@;
// Whether the network is fed the image rotated by 180 degrees; PreprocessFrame does it.
constexpr bool kRotate180 = @rotate_180@;

// Tensor memory, measured in @arena_runtime@. Head: activations, the same on every device.
constexpr size_t kArenaHeadBytes = @arena_head@;
// Tail: the runtime's own structures, on a 64-bit host; a device with 32-bit pointers needs less.
constexpr size_t kArenaTailBytes = @arena_tail@;
// Allowance for the scratch of CMSIS-NN kernels, from their formulas; the reference kernels need none.
constexpr size_t kArenaScratchBytes = @arena_scratch@;
constexpr size_t kArenaBytes = @arena_bytes@ + @GUARD@_ARENA_EXTRA_BYTES;

static_assert(kArenaBytes % 16 == 0, "the arena is a multiple of 16 bytes");
static_assert(kInputBytes == size_t{kImageSize} * kImageSize * kChannels, "one byte an element");

}  // namespace @namespace@

#endif  // @GUARD@_MODEL_SETTINGS_H_
