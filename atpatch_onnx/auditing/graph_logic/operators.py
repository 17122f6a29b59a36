"""What operators do to information, as far as the rules need it.

Operator names are those of the default domain, of com.microsoft and of ai.onnx.ml; their meanings do not clash.
"""

from __future__ import annotations

__all__ = [
    "BIASED",
    "COMPARISONS",
    "COUNTING",
    "EMBEDDINGS",
    "KNOWN_DOMAINS",
    "LAYERS",
    "LOGIC",
    "MERGES",
    "MOVES",
    "NETWORKS",
    "PICKS",
    "PRODUCTS",
    "REDUCES",
    "SCATTERS",
    "SHAPES",
    "SMOOTH",
    "STEPS",
    "names",
]


def names(text: str) -> frozenset[str]:
    """Words of a text."""
    return frozenset(text.split())


KNOWN_DOMAINS = names("ai.onnx ai.onnx.ml com.microsoft com.microsoft.nchwc ai.onnx.contrib com.ms.internal.nhwc") | {
    ""
}
"""Operators whose code comes with onnxruntime or its extensions."""

SHAPES = names("Shape Size")
"""Their result does not depend on any element."""

LAYERS: dict[str, int] = {
    **dict.fromkeys(
        names(
            "MatMul Gemm Conv ConvTranspose ConvInteger DynamicQuantizeMatMul MatMulInteger MatMulIntegerToFloat"
            " MatMulNBits MatMulBnb4 MatMulFpQ4 FusedMatMul FusedGemm FusedConv NhwcConv NhwcFusedConv GemmFastGelu"
            " DeformConv GemmFloat8 SparseToDenseMatMul"
        ),
        1,
    ),
    **dict.fromkeys(names("QLinearMatMul QLinearConv QGemm"), 3),
}
"""Operator → position of its second factor: a layer where one of the two factors is constant."""

BIASED = names("Gemm Conv ConvTranspose FusedConv FusedGemm NhwcFusedConv DeformConv")
"""Layers with a bias as their third input."""

EMBEDDINGS = names("Gather GatherBlockQuantized")
"""A layer where the table is constant."""

NETWORKS = names(
    "LSTM GRU RNN DynamicQuantizeLSTM Attention QAttention EmbedLayerNormalization QEmbedLayerNormalization"
    " MoE QMoE LongformerAttention QOrderedAttention QOrderedLongformerAttention PackedAttention"
    " DecoderAttention DecoderMaskedSelfAttention TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor"
    " LinearClassifier LinearRegressor SVMClassifier SVMRegressor BeamSearch GreedySearch Sampling WhisperBeamSearch"
    " WordConvEmbedding CausalConvWithState LinearAttention"
)
"""A layer by itself, with its weights among its inputs or attributes."""

PRODUCTS = names(
    "MultiHeadAttention GroupQueryAttention DecoderMaskedMultiHeadAttention PackedMultiHeadAttention SparseAttention"
    " PagedAttention RotaryEmbedding GemmaRotaryEmbedding"
)
"""Attention without weights of its own."""

COMPARISONS = names("Equal Less LessOrEqual Greater GreaterOrEqual")

LOGIC = names("And Or Not Xor")

MOVES = names(
    "Identity Cast CastLike Reshape Transpose Squeeze Unsqueeze Flatten Expand Tile Concat Pad DepthToSpace"
    " SpaceToDepth QuantizeLinear DequantizeLinear DynamicQuantizeLinear Dropout Neg BatchNormalization"
    " Resize Upsample ReverseSequence Optional OptionalGetElement SequenceConstruct SequenceAt SequenceInsert"
    " ConcatFromSequence SplitToSequence QLinearConcat MemcpyToHost MemcpyFromHost Trilu Roll Col2Im"
    " ReorderInput ReorderOutput Scaler ArrayFeatureExtractor FeatureVectorizer BitCast EyeLike"
    " BiasSplitGelu BiasDropout NhwcUpsample QuantizeBFP DequantizeBFP"
)
"""The elements move, or are scaled by constants."""

PICKS = names("Slice Split Gather GatherElements GatherND CenterCropPad Compress")
"""They take some elements of their first input. Where another input is computed, it selects."""

SCATTERS = names("Scatter ScatterElements ScatterND TensorScatter")

REDUCES = names(
    "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum"
    " ReduceLogSumExp AveragePool GlobalAveragePool MaxPool GlobalMaxPool LpPool GlobalLpPool QLinearReduceMean"
    " QLinearAveragePool QLinearGlobalAveragePool TopK"
)

COUNTING = names("CumSum ArgMax ArgMin NonZero Range Unique OneHot")
"""They make positions, lengths and indices."""

MERGES = names(
    "Add Sub Mul Div Pow Max Min Sum Mean Mod PRelu QLinearAdd QLinearMul BitwiseAnd BitwiseOr BitwiseXor BitShift"
    " BiasGelu FastGelu BiasSoftmax SkipLayerNormalization SkipSimplifiedLayerNormalization"
    " EmbedSkipLayerNormalization SkipGroupNorm BiasAdd MulInteger AddInteger"
)
"""They combine their inputs element by element."""

SMOOTH = names(
    "Sqrt Exp Log Sigmoid Tanh Erf Softmax LogSoftmax LayerNormalization SimplifiedLayerNormalization"
    " RMSNormalization InstanceNormalization GroupNormalization GroupNorm LRN LpNormalization"
    " MeanVarianceNormalization Reciprocal Sin Cos Softplus Softsign Gelu QuickGelu Mish Swish Selu Elu Celu"
    " Sinh Cosh Asin Acos Atan Asinh Acosh Atanh Tan QLinearSoftmax QLinearSigmoid DFT STFT MelWeightMatrix Einsum"
    " HardSwish LeakyRelu QLinearLeakyRelu Normalizer Rfft Irfft"
)
"""A function without a step. A sum of a few of them can still imitate one: see `states.bent`."""

STEPS = names(
    "Abs Relu Clip Floor Ceil Round Sign HardSigmoid ThresholdedRelu Shrink Hardmax BitwiseNot Binarizer Det"
    " LabelEncoder OneHotEncoder Imputer StringNormalizer StringSplit StringConcat RegexFullMatch TfIdfVectorizer"
    " IsNaN IsInf"
)
