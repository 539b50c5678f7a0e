// The network, as it lies in @model_path@ of the bundle @bundle@.
#ifndef @GUARD@_MODEL_DATA_H_
#define @GUARD@_MODEL_DATA_H_

#include <stddef.h>

namespace @namespace@ {

constexpr size_t kModelBytes = @model_bytes@;
// 16-byte aligned, as vector units and the flatbuffer want it.
extern const unsigned char kModelData[kModelBytes];

}  // namespace @namespace@

#endif  // @GUARD@_MODEL_DATA_H_
