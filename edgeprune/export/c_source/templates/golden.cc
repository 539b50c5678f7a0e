#include "golden.h"

#ifndef EDGEPRUNE_FLASH
#define EDGEPRUNE_FLASH
#endif

namespace @namespace@ {

const uint8_t kGoldenPixels[kGoldenImages][kInputBytes] EDGEPRUNE_FLASH = {
@pixels@
};

const int8_t kGoldenInputs[kGoldenImages][kInputBytes] EDGEPRUNE_FLASH = {
@inputs@
};

const int8_t kGoldenOutputs[kGoldenImages][kClasses] = {
@outputs@
};

const int32_t kGoldenLabels[kGoldenImages] = {@golden_labels@};

}  // namespace @namespace@
