// All kernels as one module.
#include "attention.cu"
#include "embed.cu"
#include "linear.cu"
#include "norm.cu"
#include "random.cu"
#include "rope.cu"
#include "route.cu"
