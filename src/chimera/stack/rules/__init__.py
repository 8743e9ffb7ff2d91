"""How one kind of layer runs with a member axis."""

from chimera.stack.rules import activations as activations
from chimera.stack.rules import adaptive_softmax as adaptive_softmax
from chimera.stack.rules import attention as attention
from chimera.stack.rules import bilinear as bilinear
from chimera.stack.rules import control as control
from chimera.stack.rules import convolution as convolution
from chimera.stack.rules import cross_map as cross_map
from chimera.stack.rules import dropout as dropout
from chimera.stack.rules import embedding as embedding
from chimera.stack.rules import group_norm as group_norm
from chimera.stack.rules import images as images
from chimera.stack.rules import linear as linear
from chimera.stack.rules import linear_losses as linear_losses
from chimera.stack.rules import losses as losses
from chimera.stack.rules import made as made
from chimera.stack.rules import margin_losses as margin_losses
from chimera.stack.rules import masked as masked
from chimera.stack.rules import misbatched as misbatched
from chimera.stack.rules import normalized as normalized
from chimera.stack.rules import numeric_activations as numeric_activations
from chimera.stack.rules import numeric_attention as numeric_attention
from chimera.stack.rules import numeric_dropout as numeric_dropout
from chimera.stack.rules import numeric_losses as numeric_losses
from chimera.stack.rules import numeric_norms as numeric_norms
from chimera.stack.rules import packed as packed
from chimera.stack.rules import pooling as pooling
from chimera.stack.rules import probability_losses as probability_losses
from chimera.stack.rules import recurrent as recurrent
from chimera.stack.rules.functions import FUNCTIONS
from chimera.stack.rules.losses import stacked_loss
from chimera.stack.rules.table import RULES, forwards_of, rule_of

__all__ = ["FUNCTIONS", "RULES", "forwards_of", "rule_of", "stacked_loss"]
