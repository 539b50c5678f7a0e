// The network, as it lies in model_int8.tflite of the bundle person96-b-457ed2f3.
#ifndef EDGEPRUNE_PERSON96_B_457ED2F3_MODEL_DATA_H_
#define EDGEPRUNE_PERSON96_B_457ED2F3_MODEL_DATA_H_

#include <stddef.h>

namespace edgeprune_person96_b_457ed2f3 {

constexpr size_t kModelBytes = 179944;
// 16-byte aligned, as vector units and the flatbuffer want it.
extern const unsigned char kModelData[kModelBytes];

}  // namespace edgeprune_person96_b_457ed2f3

#endif  // EDGEPRUNE_PERSON96_B_457ED2F3_MODEL_DATA_H_
