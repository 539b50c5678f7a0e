// Golden images (drawn), what preprocessing makes of them, and what the network answered when the bundle was made.
#ifndef EDGEPRUNE_PERSON96_B_457ED2F3_GOLDEN_H_
#define EDGEPRUNE_PERSON96_B_457ED2F3_GOLDEN_H_

#include <stdint.h>

#include "model_settings.h"

namespace edgeprune_person96_b_457ed2f3 {

constexpr int32_t kGoldenImages = 2;
// No output may be further from the golden one than this many steps.
constexpr int32_t kGoldenToleranceLsb = 1;
// RGB888, kImageSize x kImageSize, upright.
extern const uint8_t kGoldenPixels[kGoldenImages][kInputBytes];
// What the network is fed for them.
extern const int8_t kGoldenInputs[kGoldenImages][kInputBytes];
// From tflite-micro 0.dev20261023182759.
extern const int8_t kGoldenOutputs[kGoldenImages][kClasses];
// Indices into kLabels: what was drawn, where the classes are persons and none, or else what the float network answers.
extern const int32_t kGoldenLabels[kGoldenImages];

}  // namespace edgeprune_person96_b_457ed2f3

#endif  // EDGEPRUNE_PERSON96_B_457ED2F3_GOLDEN_H_
