// @model_path@ of the bundle @bundle@, byte for byte.
// SHA-256 @sha256@
#include "model_data.h"

// Where the linker does not put constants into flash by itself (Teensy: PROGMEM), define this.
#ifndef EDGEPRUNE_FLASH
#define EDGEPRUNE_FLASH
#endif

namespace @namespace@ {

alignas(16) const unsigned char kModelData[kModelBytes] EDGEPRUNE_FLASH = {
@model_data@
};

}  // namespace @namespace@
