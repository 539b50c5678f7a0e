// Stand-in: see README.md in tflm_headers.
#ifndef EDGEPRUNE_STAND_IN_COMMON_H_
#define EDGEPRUNE_STAND_IN_COMMON_H_

#include <stddef.h>
#include <stdint.h>

enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
enum TfLiteType { kTfLiteNoType = 0, kTfLiteFloat32 = 1, kTfLiteInt8 = 9 };

struct TfLiteIntArray {
  int size;
  int data[4];
};

struct TfLiteQuantizationParams {
  float scale;
  int32_t zero_point;
};

union TfLitePtrUnion {
  int8_t* int8;
  void* data;
};

struct TfLiteTensor {
  TfLiteType type;
  TfLitePtrUnion data;
  TfLiteIntArray* dims;
  TfLiteQuantizationParams params;
};

#endif  // EDGEPRUNE_STAND_IN_COMMON_H_
