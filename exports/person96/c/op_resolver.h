// The operators of model_int8.tflite, and no others: each one that is registered brings its kernel into flash.
#ifndef EDGEPRUNE_PERSON96_B_457ED2F3_OP_RESOLVER_H_
#define EDGEPRUNE_PERSON96_B_457ED2F3_OP_RESOLVER_H_

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

namespace edgeprune_person96_b_457ed2f3 {

constexpr int kOperatorKinds = 7;
using OpResolver = tflite::MicroMutableOpResolver<kOperatorKinds>;

// Once for each resolver: TFLite Micro refuses an operator that it has already.
inline TfLiteStatus RegisterOperators(OpResolver* resolver) {
  if (resolver->AddAdd() != kTfLiteOk) return kTfLiteError;
  if (resolver->AddConv2D() != kTfLiteOk) return kTfLiteError;
  if (resolver->AddDepthwiseConv2D() != kTfLiteOk) return kTfLiteError;
  if (resolver->AddFullyConnected() != kTfLiteOk) return kTfLiteError;
  if (resolver->AddHardSwish() != kTfLiteOk) return kTfLiteError;
  if (resolver->AddMean() != kTfLiteOk) return kTfLiteError;
  if (resolver->AddMul() != kTfLiteOk) return kTfLiteError;
  return kTfLiteOk;
}

}  // namespace edgeprune_person96_b_457ed2f3

#endif  // EDGEPRUNE_PERSON96_B_457ED2F3_OP_RESOLVER_H_
