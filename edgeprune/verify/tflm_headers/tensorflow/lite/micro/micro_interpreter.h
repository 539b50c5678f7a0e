// Stand-in: see README.md in tflm_headers.
#ifndef EDGEPRUNE_STAND_IN_MICRO_INTERPRETER_H_
#define EDGEPRUNE_STAND_IN_MICRO_INTERPRETER_H_

#include <stddef.h>
#include <stdint.h>

#include "tensorflow/lite/c/common.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace tflite {

class MicroOpResolver {
 public:
  virtual unsigned int registered() const = 0;

 protected:
  ~MicroOpResolver() = default;
};

class MicroInterpreter {
 public:
  MicroInterpreter(const Model* model, const MicroOpResolver& resolver, uint8_t* arena, size_t arena_bytes);
  ~MicroInterpreter();
  TfLiteStatus AllocateTensors();
  TfLiteStatus Invoke();
  size_t inputs_size() const;
  size_t outputs_size() const;
  TfLiteTensor* input(size_t index);
  TfLiteTensor* output(size_t index);
  size_t arena_used_bytes() const;

 private:
  const Model* model_;
  const MicroOpResolver& resolver_;
  uint8_t* arena_;
  size_t arena_bytes_;
};

}  // namespace tflite

#endif  // EDGEPRUNE_STAND_IN_MICRO_INTERPRETER_H_
