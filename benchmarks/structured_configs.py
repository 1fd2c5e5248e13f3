"""Transformers families at toy size, with random weights: encoder, decoder, encoder-decoder, vision, audio."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA = {**TEXT, "num_key_value_heads": 2, "head_dim": 8}
GPT = {
    "vocab_size": 96,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SEQ = {
    "vocab_size": 96,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
IMAGE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}
SOUND = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (32, 32),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 24,
    "mask_time_prob": 0.0,
    "num_labels": 4,
    "classifier_proj_size": 16,
}
STAGES = {"image_size": 32, "num_labels": 5}


def ids() -> dict:
    return {"input_ids": torch.randint(3, 96, (2, 12))}


def pair() -> dict:
    return {**ids(), "decoder_input_ids": torch.randint(3, 96, (2, 9))}


def pixels(size: int = 32) -> Callable[[], dict]:
    return lambda: {"pixel_values": torch.randn(2, 3, size, size)}


def wave() -> dict:
    return {"input_values": torch.randn(2, 800)}


CONFIGS: dict[str, tuple[str, str, dict, Callable[[], dict]]] = {
    # encoders
    "bert": ("Bert", "ForSequenceClassification", TEXT, ids),
    "roberta": ("Roberta", "ForSequenceClassification", TEXT, ids),
    "distilbert": (
        "DistilBert",
        "ForSequenceClassification",
        {**TEXT, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
        ids,
    ),
    "albert": ("Albert", "ForSequenceClassification", {**TEXT, "embedding_size": 16}, ids),
    "electra": ("Electra", "ForSequenceClassification", {**TEXT, "embedding_size": 16}, ids),
    "deberta_v2": (
        "DebertaV2",
        "ForSequenceClassification",
        {**TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
        ids,
    ),
    "mpnet": ("MPNet", "ForSequenceClassification", TEXT, ids),
    "xlm_roberta": ("XLMRoberta", "ForTokenClassification", TEXT, ids),
    "modernbert": ("ModernBert", "ForMaskedLM", {**TEXT, "cls_token_id": 1, "sep_token_id": 2}, ids),
    "mobilebert": (
        "MobileBert",
        "ForSequenceClassification",
        {**TEXT, "embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
        ids,
    ),
    "squeezebert": (
        "SqueezeBert",
        "ForSequenceClassification",
        {
            **TEXT,
            "embedding_size": 32,
            "q_groups": 2,
            "k_groups": 2,
            "v_groups": 2,
            "post_attention_groups": 1,
            "intermediate_groups": 2,
            "output_groups": 2,
        },
        ids,
    ),
    "convbert": ("ConvBert", "ForSequenceClassification", {**TEXT, "embedding_size": 32}, ids),
    "fnet": ("FNet", "ForSequenceClassification", TEXT, ids),
    "roformer": ("RoFormer", "ForSequenceClassification", {**TEXT, "embedding_size": 32}, ids),
    "esm": ("Esm", "ForMaskedLM", {**TEXT, "position_embedding_type": "rotary", "mask_token_id": 3}, ids),
    "ibert": ("IBert", "ForSequenceClassification", TEXT, ids),
    "megatron_bert": ("MegatronBert", "ForSequenceClassification", TEXT, ids),
    # decoders
    "gpt2": ("GPT2", "LMHeadModel", GPT, ids),
    "gpt_neo": (
        "GPTNeo",
        "ForCausalLM",
        {**TEXT, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8},
        ids,
    ),
    "gpt_neox": ("GPTNeoX", "ForCausalLM", TEXT, ids),
    "gptj": ("GPTJ", "ForCausalLM", {**GPT, "rotary_dim": 4}, ids),
    "gpt_bigcode": ("GPTBigCode", "ForCausalLM", GPT, ids),
    "codegen": ("CodeGen", "ForCausalLM", {**GPT, "rotary_dim": 4}, ids),
    "opt": ("OPT", "ForCausalLM", {**TEXT, "ffn_dim": 64, "word_embed_proj_dim": 32}, ids),
    "bloom": ("Bloom", "ForCausalLM", {**TEXT, "n_head": 4, "n_layer": 2}, ids),
    "falcon": ("Falcon", "ForCausalLM", {**TEXT, "new_decoder_architecture": False, "multi_query": True}, ids),
    "mpt": (
        "Mpt",
        "ForCausalLM",
        {"vocab_size": 96, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
        ids,
    ),
    "llama": ("Llama", "ForCausalLM", LLAMA, ids),
    "mistral": ("Mistral", "ForCausalLM", LLAMA, ids),
    "mixtral": ("Mixtral", "ForCausalLM", {**LLAMA, "num_local_experts": 4}, ids),
    "qwen2": ("Qwen2", "ForCausalLM", LLAMA, ids),
    "qwen3": ("Qwen3", "ForCausalLM", LLAMA, ids),
    "gemma": ("Gemma", "ForCausalLM", LLAMA, ids),
    "gemma2": ("Gemma2", "ForCausalLM", {**LLAMA, "query_pre_attn_scalar": 8}, ids),
    "phi": ("Phi", "ForCausalLM", TEXT, ids),
    "phi3": ("Phi3", "ForCausalLM", LLAMA, ids),
    "stablelm": ("StableLm", "ForCausalLM", LLAMA, ids),
    "olmo2": ("Olmo2", "ForCausalLM", LLAMA, ids),
    "starcoder2": ("Starcoder2", "ForCausalLM", LLAMA, ids),
    "cohere": ("Cohere", "ForCausalLM", LLAMA, ids),
    "granite": ("Granite", "ForCausalLM", LLAMA, ids),
    "biogpt": ("BioGpt", "ForCausalLM", TEXT, ids),
    "mamba": ("Mamba", "ForCausalLM", {**TEXT, "state_size": 8, "expand": 2, "time_step_rank": 4}, ids),
    # encoder-decoders
    "t5": (
        "T5",
        "ForConditionalGeneration",
        {
            "vocab_size": 96,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
        pair,
    ),
    "mt5": (
        "MT5",
        "ForConditionalGeneration",
        {
            "vocab_size": 96,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
        pair,
    ),
    "bart": ("Bart", "ForConditionalGeneration", SEQ, pair),
    "mbart": ("MBart", "ForConditionalGeneration", SEQ, pair),
    "pegasus": ("Pegasus", "ForConditionalGeneration", SEQ, pair),
    "marian": ("Marian", "MTModel", SEQ, pair),
    "m2m_100": ("M2M100", "ForConditionalGeneration", SEQ, pair),
    "blenderbot": ("Blenderbot", "ForConditionalGeneration", SEQ, pair),
    # vision
    "vit": ("ViT", "ForImageClassification", IMAGE, pixels()),
    "deit": ("DeiT", "ForImageClassification", IMAGE, pixels()),
    "beit": ("Beit", "ForImageClassification", {**IMAGE, "out_indices": [1]}, pixels()),
    "dinov2": ("Dinov2", "ForImageClassification", {**IMAGE, "mlp_ratio": 2}, pixels()),
    "swin": (
        "Swin",
        "ForImageClassification",
        {**STAGES, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "patch_size": 2},
        pixels(),
    ),
    "swinv2": (
        "Swinv2",
        "ForImageClassification",
        {**STAGES, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "patch_size": 2},
        pixels(),
    ),
    "convnext": (
        "ConvNext",
        "ForImageClassification",
        {**STAGES, "hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2},
        pixels(),
    ),
    "convnextv2": (
        "ConvNextV2",
        "ForImageClassification",
        {**STAGES, "hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2},
        pixels(),
    ),
    "resnet": (
        "ResNet",
        "ForImageClassification",
        {**STAGES, "embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2]},
        pixels(),
    ),
    "regnet": (
        "RegNet",
        "ForImageClassification",
        {**STAGES, "embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 2], "groups_width": 8},
        pixels(),
    ),
    "mobilenet_v1": ("MobileNetV1", "ForImageClassification", {**STAGES, "depth_multiplier": 0.25}, pixels()),
    "mobilenet_v2": ("MobileNetV2", "ForImageClassification", {**STAGES, "depth_multiplier": 0.25}, pixels()),
    "mobilevit": (
        "MobileViT",
        "ForImageClassification",
        {
            "image_size": 64,
            "num_labels": 5,
            "hidden_sizes": [24, 32, 40],
            "neck_hidden_sizes": [8, 16, 16, 24, 32, 40, 48],
            "num_attention_heads": 4,
            "patch_size": 2,
        },
        pixels(64),
    ),
    "segformer": (
        "Segformer",
        "ForImageClassification",
        {
            **STAGES,
            "hidden_sizes": [16, 32],
            "depths": [1, 1],
            "num_encoder_blocks": 2,
            "sr_ratios": [2, 1],
            "num_attention_heads": [2, 4],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "mlp_ratios": [2, 2],
            "decoder_hidden_size": 32,
        },
        pixels(),
    ),
    "poolformer": (
        "PoolFormer",
        "ForImageClassification",
        {
            **STAGES,
            "hidden_sizes": [16, 32],
            "depths": [1, 1],
            "num_encoder_blocks": 2,
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "padding": [2, 1],
        },
        pixels(),
    ),
    "pvt_v2": (
        "PvtV2",
        "ForImageClassification",
        {
            **STAGES,
            "hidden_sizes": [16, 32],
            "depths": [1, 1],
            "num_encoder_blocks": 2,
            "num_attention_heads": [2, 4],
            "sr_ratios": [2, 1],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "mlp_ratios": [2, 2],
        },
        pixels(),
    ),
    "levit": (
        "Levit",
        "ForImageClassification",
        {
            "image_size": 64,
            "num_labels": 5,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
        pixels(64),
    ),
    "siglip": ("SiglipVision", "Model", {**IMAGE, "_head": True}, pixels()),
    "clip": ("CLIPVision", "ModelWithProjection", {**IMAGE, "projection_dim": 16}, pixels()),
    # audio
    "wav2vec2": ("Wav2Vec2", "ForCTC", SOUND, wave),
    "hubert": ("Hubert", "ForCTC", SOUND, wave),
    "wavlm": ("WavLM", "ForCTC", {**SOUND, "num_buckets": 8}, wave),
    "sew": ("SEW", "ForCTC", {**SOUND, "squeeze_factor": 2}, wave),
    "ast": (
        "AST",
        "ForAudioClassification",
        {
            **{k: v for k, v in IMAGE.items() if k != "image_size"},
            "max_length": 32,
            "num_mel_bins": 16,
            "time_stride": 8,
            "frequency_stride": 8,
        },
        lambda: {"input_values": torch.randn(2, 32, 16)},
    ),
    "whisper": (
        "Whisper",
        "ForConditionalGeneration",
        {**SEQ, "num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 32},
        lambda: {"input_features": torch.randn(2, 16, 40), "decoder_input_ids": torch.randint(3, 96, (2, 9))},
    ),
    "speech_to_text": (
        "Speech2Text",
        "ForConditionalGeneration",
        {
            **SEQ,
            "input_feat_per_channel": 16,
            "input_channels": 1,
            "conv_channels": 32,
            "max_source_positions": 64,
            "max_target_positions": 32,
        },
        lambda: {"input_features": torch.randn(2, 40, 16), "decoder_input_ids": torch.randint(3, 96, (2, 9))},
    ),
}


def build(name: str) -> tuple[nn.Module, dict]:
    """The network and named inputs for it."""
    stem, head, settings, inputs = CONFIGS[name]
    library: Any = importlib.import_module("transformers")
    config = getattr(library, f"{stem}Config")(**{k: v for k, v in settings.items() if not k.startswith("_")})
    config.use_cache = False
    config.return_dict = True
    return getattr(library, f"{stem}{head}")(config).eval(), inputs()
