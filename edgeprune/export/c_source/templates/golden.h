// Golden images (@kind@), what preprocessing makes of them, and what the network answered when the bundle was made.
#ifndef @GUARD@_GOLDEN_H_
#define @GUARD@_GOLDEN_H_

#include <stdint.h>

#include "model_settings.h"

namespace @namespace@ {

constexpr int32_t kGoldenImages = @golden_images@;
// No output may be further from the golden one than this many steps.
constexpr int32_t kGoldenToleranceLsb = @tolerance_lsb@;
// RGB888, kImageSize x kImageSize, upright.
extern const uint8_t kGoldenPixels[kGoldenImages][kInputBytes];
// What the network is fed for them.
extern const int8_t kGoldenInputs[kGoldenImages][kInputBytes];
// From @arena_runtime@.
extern const int8_t kGoldenOutputs[kGoldenImages][kClasses];
// Indices into kLabels: @golden_truth@
extern const int32_t kGoldenLabels[kGoldenImages];

}  // namespace @namespace@

#endif  // @GUARD@_GOLDEN_H_
