#include "model_settings.h"

namespace edgeprune_person96_b_457ed2f3 {

const char* const kLabels[kClasses] = {
    "not_person",
    "person",
};

}  // namespace edgeprune_person96_b_457ed2f3
