// The network, ready to run: one arena and one interpreter for the whole firmware.
#ifndef EDGEPRUNE_PERSON96_B_457ED2F3_CLASSIFY_H_
#define EDGEPRUNE_PERSON96_B_457ED2F3_CLASSIFY_H_

#include <stdint.h>

#include "preprocess.h"
#include "tensorflow/lite/micro/micro_interpreter.h"

namespace edgeprune_person96_b_457ed2f3 {

// What went wrong. The values are also what RunSelfTest returns; see README.md for what to do about each.
enum class Status : int {
  kOk = 0,
  kSchemaVersion = 1,    // the array is no TFLite model of this schema
  kOperators = 2,        // an operator could not be registered
  kArenaTooSmall = 3,    // AllocateTensors failed
  kInputTensor = 4,      // the input differs from model_settings.h in shape, type, scale or zero point
  kOutputTensor = 5,     // the output does
  kArenaUsed = 6,        // more of the arena is in use than kArenaBytes
  kFrame = 7,            // PreprocessFrame refused the frame
  kPreprocess = 8,       // self-test: preprocessing does not give a golden input, byte for byte
  kInvoke = 9,           // the network did not run
  kGoldenOutput = 10,    // self-test: an output is further from the golden one than the tolerance
};

struct Result {
  int32_t label;        // index into kLabels
  int8_t stored;        // the largest output, as the network stores it
  int8_t runner_up;     // the second largest
  float score;          // the largest output as a real number, a logit: not a probability
};

// Prepares the interpreter, and compares its tensors with model_settings.h. The first call does the work, later ones
// return what it returned.
Status Setup();

// Calls Setup, preprocesses the frame, runs the network. `result` is written when the return value is kOk. Not
// re-entrant: there is one arena.
Status Classify(const Frame& frame, Result* result);

// The interpreter, or nullptr before Setup has returned kOk.
tflite::MicroInterpreter* Interpreter();

}  // namespace edgeprune_person96_b_457ed2f3

#endif  // EDGEPRUNE_PERSON96_B_457ED2F3_CLASSIFY_H_
