// Does this firmware, on this device, do what was proved when the bundle was made?
#ifndef EDGEPRUNE_PERSON96_B_457ED2F3_SELF_TEST_H_
#define EDGEPRUNE_PERSON96_B_457ED2F3_SELF_TEST_H_

#include <stdint.h>

#include "classify.h"

namespace edgeprune_person96_b_457ed2f3 {

// Is told of the first failure: which golden image (-1: none), which element of its input or output, and both values.
using SelfTestHook = void (*)(Status status, int32_t image, int32_t element, int32_t found, int32_t expected);

// Returns 0 only when the model and its tensors are those of model_settings.h, the arena in use is at most kArenaBytes,
// preprocessing gives every golden input byte for byte, and the network every golden output within the tolerance.
// Otherwise the Status. Prints nothing; runs the network kGoldenImages times.
int RunSelfTest(SelfTestHook hook = nullptr);

}  // namespace edgeprune_person96_b_457ed2f3

#endif  // EDGEPRUNE_PERSON96_B_457ED2F3_SELF_TEST_H_
