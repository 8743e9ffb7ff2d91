"""How one kind of layer runs with a member axis."""

from chimera.stack.rules import control as control
from chimera.stack.rules import linear as linear
from chimera.stack.rules import linear_losses as linear_losses
from chimera.stack.rules import losses as losses
from chimera.stack.rules import numeric_activations as numeric_activations
from chimera.stack.rules import numeric_dropout as numeric_dropout
from chimera.stack.rules import numeric_norms as numeric_norms
from chimera.stack.rules import recurrent as recurrent
from chimera.stack.rules.losses import stacked_loss
from chimera.stack.rules.table import forwards_of, rule_of

__all__ = ["forwards_of", "rule_of", "stacked_loss"]
