"""A Lambda function in Python with PyTorch: each invocation trains one step of a small model."""

import json
import os
import urllib.request

import torch

API = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation"


def step(model, optimizer, x, y):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def main():
    torch.manual_seed(7)
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, y = torch.rand(64, 32), torch.arange(64) % 4
    while True:
        with urllib.request.urlopen(f"{API}/next") as event:
            request = event.headers["Lambda-Runtime-Aws-Request-Id"]
            event.read()
        body = json.dumps({"loss": step(model, optimizer, x, y)}).encode()
        urllib.request.urlopen(
            urllib.request.Request(f"{API}/{request}/response", data=body)
        ).read()


main()
