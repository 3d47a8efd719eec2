// All kernels, compiled for the CPU, behind the C functions of `abi.hpp`:
//
//     cd kernels/emulator
//     g++ -std=c++17 -O1 -shared -fPIC -pthread -Wno-unknown-pragmas -I .. emulator.cpp -o libemulator.so
#define EMULATED
#include "primitives.cuh"

#include "../all.cu"

#include "abi.hpp"

REGISTER(attend_bf16_128);
REGISTER(attend_bf16_16);
REGISTER(attend_bf16_32);
REGISTER(attend_bf16_64);
REGISTER(attend_combine);
REGISTER(attend_f32);
REGISTER(combine);
REGISTER(embed_bf16);
REGISTER(embed_f32);
REGISTER(fill_bf16);
REGISTER(fill_f32);
REGISTER(head_reduce);
REGISTER(keep_rows);
REGISTER(linear_bf16_add_many);
REGISTER(linear_bf16_add_some);
REGISTER(linear_bf16_gated_few);
REGISTER(linear_bf16_gated_many);
REGISTER(linear_bf16_gated_some);
REGISTER(linear_bf16_head_some);
REGISTER(linear_bf16_store_few);
REGISTER(linear_bf16_store_many);
REGISTER(linear_bf16_store_some);
REGISTER(linear_f32_add);
REGISTER(linear_f32_gated);
REGISTER(linear_f32_head);
REGISTER(linear_f32_store);
REGISTER(linear_q4_add_many);
REGISTER(linear_q4_add_some);
REGISTER(linear_q4_gated_few);
REGISTER(linear_q4_gated_many);
REGISTER(linear_q4_gated_some);
REGISTER(linear_q4_head_some);
REGISTER(linear_q4_store_few);
REGISTER(linear_q4_store_many);
REGISTER(linear_q4_store_some);
REGISTER(linear_q8_add_many);
REGISTER(linear_q8_add_some);
REGISTER(linear_q8_gated_few);
REGISTER(linear_q8_gated_many);
REGISTER(linear_q8_gated_some);
REGISTER(linear_q8_head_some);
REGISTER(linear_q8_store_few);
REGISTER(linear_q8_store_many);
REGISTER(linear_q8_store_some);
REGISTER(norm_bf16);
REGISTER(norm_f32);
REGISTER(norm_q4);
REGISTER(norm_q8);
REGISTER(peak_bf16);
REGISTER(peak_s8);
REGISTER(random_bf16);
REGISTER(random_bytes);
REGISTER(rope_bf16);
REGISTER(rope_f32);
REGISTER(route_choose);
REGISTER(route_pool);
REGISTER(route_scores);
REGISTER(route_scores_exact);
REGISTER(route_sort);
REGISTER(rows_bf16);
REGISTER(rows_f32);
REGISTER(rows_q4);
REGISTER(rows_q8);
REGISTER(train_add);
REGISTER(train_attend);
REGISTER(train_attend_backward_keys);
REGISTER(train_attend_backward_queries);
REGISTER(train_attend_delta);
REGISTER(train_combine);
REGISTER(train_embed);
REGISTER(train_experts_backward);
REGISTER(train_gather);
REGISTER(train_heads);
REGISTER(train_heads_backward);
REGISTER(train_heads_reduce);
REGISTER(train_input_bf16);
REGISTER(train_input_f32);
REGISTER(train_linear_bf16);
REGISTER(train_linear_f32);
REGISTER(train_loss);
REGISTER(train_norm);
REGISTER(train_norm_backward);
REGISTER(train_norm_reduce);
REGISTER(train_route);
REGISTER(train_route_backward);
REGISTER(train_scatter_add);
REGISTER(train_slot_weights);
REGISTER(train_swiglu);
REGISTER(train_swiglu_backward);
REGISTER(train_swiglu_experts);
REGISTER(train_weight_bf16);
REGISTER(train_weight_f32);
