// model/families/decoder_presets.h - config.json of models that the program knows by name, as their releases
// have it on the Hub (Qwen/Qwen3-8B, -32B, -30B-A3B, -235B-A22B; meta-llama/Llama-3.1-8B, -3.3-70B-Instruct;
// mistralai/Mixtral-8x7B-v0.1; zai-org/GLM-4.5-Air, GLM-4.6; Qwen/Qwen3-Next-80B-A3B-Instruct, Qwen3.5-27B,
// -35B-A3B, -397B-A17B without their vision towers; deepseek-ai/DeepSeek-V3, -V3.2;
// moonshotai/Kimi-K2-Instruct), and of small ones for demonstrations: dense with a tied head; with experts in
// all layers but one; the same with latent attention; with delta nets, dense and with stacked experts.
#pragma once

#include "base/json.h"

namespace nibblecast {

Json qwen3_8b_config();
Json qwen3_32b_config();
Json qwen3_30b_a3b_config();
Json qwen3_235b_a22b_config();
Json llama_3_1_8b_config();
Json llama_3_3_70b_config();
Json mixtral_8x7b_config();
Json glm_4_5_air_config();
Json glm_4_6_config();
Json deepseek_v3_config();
Json deepseek_v32_config();
Json kimi_k2_config();
Json qwen3_next_80b_a3b_config();
Json qwen3_5_27b_config();
Json qwen3_5_35b_a3b_config();
Json qwen3_5_397b_a17b_config();
Json qwen3_tiny_config();
Json qwen3_moe_tiny_config();
Json deepseek_v3_tiny_config();
Json qwen3_5_tiny_config();
Json qwen3_5_moe_tiny_config();

}  // namespace nibblecast
