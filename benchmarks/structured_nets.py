"""Small hand-written networks, one for each structure that structured pruning has to cope with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from structured_convs import (
    CBAM,
    CSP,
    FPN,
    VAE,
    DenseNet,
    Diffusion,
    Fire,
    Generator,
    Ghost,
    Head,
    HRNet,
    Inception,
    LeNet,
    OptionA,
    PointNet,
    RepVGG,
    Shuffle1,
    Shuffle2,
    Siamese,
    UNet,
    Yolo,
    cbr,
    mobilenet,
    resnet,
)
from structured_mixers import GMLP, ConvMixer, ConvNeXt, MeanHead, Mixer, Patches, ResMLP
from structured_sequences import (
    DLRM,
    TCN,
    Cell,
    ConvLSTM,
    Experts,
    FusedAttention,
    GroupedQuery,
    Language,
    Tagger,
    TorchEncoder,
    Translator,
    ViT,
    WaveNet,
    Window,
)
from torch import Tensor, nn


def image(size: int = 32, c: int = 3) -> tuple[Tensor]:
    return (torch.randn(2, c, size, size),)


def tokens(n: int = 12) -> tuple[Tensor]:
    return (torch.randint(0, 64, (2, n)),)


S = nn.Sequential
NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple]]] = {
    "mlp": (
        lambda: S(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 5)),
        lambda: (torch.randn(4, 20),),
    ),
    "lenet": (LeNet, lambda: image(28, 1)),
    "vgg": (
        lambda: S(
            cbr(3, 16),
            cbr(16, 16),
            nn.MaxPool2d(2),
            cbr(16, 32),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 64, 64),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(64, 10),
        ),
        image,
    ),
    "resnet_basic": (resnet, image),
    "resnet_bottleneck": (lambda: resnet(mid=8), image),
    "resnext": (lambda: resnet(mid=16, g=4), image),
    "regnet_y": (lambda: resnet(mid=16, g=2, se=True), image),
    "se_resnet": (lambda: resnet(se=True), image),
    "densenet": (DenseNet, image),
    "mobilenet_v1": (
        lambda: S(cbr(3, 16), cbr(16, 16, g=16), cbr(16, 32, 1), cbr(32, 32, g=32), cbr(32, 64, 1), Head(64)),
        image,
    ),
    "mobilenet_v2": (lambda: mobilenet(False, nn.ReLU6), image),
    "mobilenet_v3": (lambda: mobilenet(True, nn.Hardswish), image),
    "efficientnet": (lambda: mobilenet(True, nn.SiLU), image),
    "ghostnet": (lambda: S(cbr(3, 16), Ghost(16, 32), Ghost(32, 32), Ghost(32, 64), Head(64)), image),
    "shufflenet_v1": (lambda: S(cbr(3, 24), Shuffle1(24, 3), Shuffle1(24, 3), Head(24)), image),
    "shufflenet_v2": (lambda: S(cbr(3, 32), Shuffle2(32), Shuffle2(32), cbr(32, 64, 1), Head(64)), image),
    "squeezenet": (
        lambda: S(
            cbr(3, 16), Fire(16, 8, 16), Fire(32, 8, 16), nn.Conv2d(32, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ),
        image,
    ),
    "inception": (lambda: S(cbr(3, 16), Inception(16, 8), Inception(32, 16), Head(64)), image),
    "csp": (lambda: S(cbr(3, 32), CSP(32), CSP(32), Head(32)), image),
    "yolo": (Yolo, image),
    "repvgg": (lambda: S(RepVGG(3, 16), RepVGG(16, 16), RepVGG(16, 32), Head(32)), image),
    "convnext": (lambda: S(nn.Conv2d(3, 24, 4, 4), ConvNeXt(24), ConvNeXt(24), Head(24)), image),
    "convmixer": (lambda: S(nn.Conv2d(3, 24, 4, 4), ConvMixer(24), ConvMixer(24), Head(24)), image),
    "mlp_mixer": (lambda: S(Patches(32), Mixer(16, 32), Mixer(16, 32), MeanHead(32)), lambda: image(16)),
    "resmlp": (lambda: S(Patches(32), ResMLP(16, 32), ResMLP(16, 32), MeanHead(32)), lambda: image(16)),
    "gmlp": (lambda: S(Patches(32), GMLP(16, 32), GMLP(16, 32), MeanHead(32)), lambda: image(16)),
    "unet": (UNet, image),
    "diffusion_unet": (Diffusion, lambda: (torch.randn(2, 3, 8, 8), torch.randn(2, 8))),
    "super_resolution": (
        lambda: S(cbr(3, 32), cbr(32, 48), nn.PixelShuffle(2), nn.Conv2d(12, 12, 3, padding=1), nn.PixelShuffle(2)),
        lambda: image(8),
    ),
    "generator": (Generator, lambda: (torch.randn(3, 8),)),
    "vae": (VAE, lambda: image(28, 1)),
    "lstm": (lambda: Tagger(nn.LSTM), tokens),
    "gru": (lambda: Tagger(nn.GRU, 1, False), tokens),
    "lstm_cell": (Cell, lambda: (torch.randn(2, 6, 8),)),
    "conv_lstm": (ConvLSTM, lambda: (torch.randn(2, 3, 3, 8, 8),)),
    "tcn": (lambda: TCN(False), lambda: (torch.randn(2, 4, 16),)),
    "tcn_weight_norm": (lambda: TCN(True), lambda: (torch.randn(2, 4, 16),)),
    "wavenet": (WaveNet, lambda: (torch.randn(2, 1, 32),)),
    "gpt_fused": (lambda: Language(lambda c: FusedAttention(c, 4)), tokens),
    "llama_gqa": (lambda: Language(lambda c: GroupedQuery(c, 8, 2), True, 64), tokens),
    "vit_timm": (ViT, lambda: image(16)),
    "window_attention": (Window, lambda: image(16)),
    "torch_encoder": (TorchEncoder, tokens),
    "torch_transformer": (Translator, lambda: (*tokens(12), *tokens(9))),
    "pointnet": (PointNet, lambda: (torch.randn(2, 3, 20),)),
    "cbam": (lambda: S(cbr(3, 16), CBAM(16), CBAM(16), Head(16)), image),
    "fpn": (FPN, image),
    "hrnet": (HRNet, image),
    "dlrm": (DLRM, lambda: (torch.randn(4, 6), torch.randint(0, 50, (4, 3)))),
    "siamese": (Siamese, lambda: (*image(16), *image(16))),
    "soft_experts": (Experts, lambda: (torch.randn(4, 8),)),
    "resnet_padded": (OptionA, image),
}
