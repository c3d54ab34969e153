"""The state of many small parameters in a few large tensors."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import is_

import torch

# Elements that an operation updates in one go: enough that calling it costs little beside it, few
# enough that a processor's cache holds them from one operation to the next.
PART = 2 ** 20


class Gathered:
    """Small parameters of one kind, each state of theirs side by side in one tensor.

    An operation on a tensor of a hundred numbers takes as long as calling it does, and most
    parameters of a network are no larger. What is gathered is updated by one call for all; only
    gradients and parameters, which others own, take one each. A parameter's state stays a tensor
    of its shape, now a view into the large one, so that saving, loading and looking at it are as
    before. A state that somebody replaced, as loading does, asks for a new object.

    Args:
        params (list): Parameters of one type on one device.
        states (list of dict): Their tensors by name, of the same shape, type and device; the dicts
            get the views.
        names (tuple): The tensors to gather.

    Attributes:
        grads (list of Tensor): Where the caller copies the gradients to, one for each parameter.
        states (dict): By name, the views of all parameters.
        parts (list of tuple): For each part of all elements the gradients and then the states, in
            the order of ``names``; tensors of shape (n, ), n at most ``PART``.
    """

    def __init__(self, params: Sequence[torch.Tensor], states: Sequence[dict],
                 names: Sequence[str]):
        self._params, self.states = list(params), {}
        whole = self._whole()
        self.grads, wholes = self._shaped(whole), [whole]
        for name in names:
            whole = self._whole()
            views = self._shaped(whole)
            torch._foreach_copy_(views, [state[name] for state in states])
            for state, view in zip(states, views, strict=True):
                state[name] = view
            self.states[name] = views
            wholes.append(whole)
        self._places = [[view.data_ptr() for view in views] for views in self.states.values()]
        self.parts = list(zip(*(whole.split(PART) for whole in wholes), strict=True))

    @staticmethod
    def possible(params: Sequence[torch.Tensor], *others: Sequence[torch.Tensor]) -> bool:
        """Whether there are some, and plain tensors of one type and device belong to them."""
        return bool(params) and all(
            type(tensor) in (torch.Tensor, torch.nn.Parameter)
            and (tensor.dtype, tensor.device) == (params[0].dtype, params[0].device)
            for tensors in (params, *others) for tensor in tensors)

    def holds(self, params: Sequence[torch.Tensor], *states: Sequence[torch.Tensor]) -> bool:
        """Whether it was made of these parameters, and these are still their states, where they
        were."""
        return all(len(mine) == len(theirs) and all(map(is_, mine, theirs))
                   for mine, theirs in zip((self._params, *self.states.values()),
                                           (params, *states), strict=True)) and self._places == [
            [state.data_ptr() for state in ones] for ones in states]

    def leave(self, params: Sequence[torch.Tensor], states: Mapping[torch.Tensor, dict]) -> None:
        """Give those that are not among ``params`` tensors of their own: a file would hold the
        whole of each view's."""
        staying = set(map(id, params))
        for index, param in enumerate(self._params):
            state = states.get(param, {}) if id(param) not in staying else {}
            for name, views in self.states.items():
                if state.get(name) is views[index]:
                    state[name] = views[index].clone()

    def _whole(self) -> torch.Tensor:
        return self._params[0].new_empty(sum(param.numel() for param in self._params))

    def _shaped(self, whole: torch.Tensor) -> list[torch.Tensor]:
        parts = whole.split([param.numel() for param in self._params])
        return [part.view(param.shape) for part, param in zip(parts, self._params, strict=True)]
