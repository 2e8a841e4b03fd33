import pytest
import torch

from runtime.device import resolve_device


def with_cards(monkeypatch, cards):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)


@pytest.mark.parametrize(
    ("cards", "name", "device"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (0, "cpu:0", "cpu:0"),
        (2, "auto", "cuda"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_a_name_becomes_a_device_that_is_there(monkeypatch, cards, name, device):
    with_cards(monkeypatch, cards)
    assert resolve_device(name) == torch.device(device)


@pytest.mark.parametrize(
    ("cards", "name", "message"),
    [
        (0, "foo", "device = 'foo', expected auto, cpu, cuda or cuda:<number>"),
        (0, "", "device = '', expected auto, cpu, cuda or cuda:<number>"),
        (2, "cuda:00", "device = 'cuda:00', expected auto, cpu, cuda or cuda:<number>"),
        (0, "meta", "device = 'meta', expected auto, cpu, cuda or cuda:<number>"),
        (0, "cuda", "device = 'cuda', but there is no CUDA device here; expected auto, cpu, cuda or"),
        (2, "cuda:2", "device = 'cuda:2', but the 2 CUDA devices here count from 0; expected auto, cpu"),
    ],
)
def test_an_unknown_or_absent_device_is_refused_by_name(monkeypatch, cards, name, message):
    with_cards(monkeypatch, cards)
    with pytest.raises(ValueError) as error:
        resolve_device(name)
    assert str(error.value).startswith(message)
