// The operators of @model_path@, and no others: each one that is registered brings its kernel into flash.
#ifndef @GUARD@_OP_RESOLVER_H_
#define @GUARD@_OP_RESOLVER_H_

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

namespace @namespace@ {

constexpr int kOperatorKinds = @operator_kinds@;
using OpResolver = tflite::MicroMutableOpResolver<kOperatorKinds>;

// Once for each resolver: TFLite Micro refuses an operator that it has already.
inline TfLiteStatus RegisterOperators(OpResolver* resolver) {
@operators@
  return kTfLiteOk;
}

}  // namespace @namespace@

#endif  // @GUARD@_OP_RESOLVER_H_
