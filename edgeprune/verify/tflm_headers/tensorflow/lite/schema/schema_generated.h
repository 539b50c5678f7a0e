// Stand-in: see README.md in tflm_headers.
#ifndef EDGEPRUNE_STAND_IN_SCHEMA_GENERATED_H_
#define EDGEPRUNE_STAND_IN_SCHEMA_GENERATED_H_

#include <stdint.h>

namespace tflite {

struct Model {
  uint32_t version() const;
};

const Model* GetModel(const void* content);

}  // namespace tflite

#endif  // EDGEPRUNE_STAND_IN_SCHEMA_GENERATED_H_
