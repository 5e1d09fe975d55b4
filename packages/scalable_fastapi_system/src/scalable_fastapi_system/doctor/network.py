"""Whether a server can be reached at all, before its protocol is spoken: each way to fail is its own sentence."""

from __future__ import annotations

import asyncio
import socket

from scalable_fastapi_system.doctor.findings import Report


async def is_reachable(
    report: Report, area: str, host: str, port: int, *, variable: str, timeout_seconds: float
) -> bool:
    """Opens and closes one TCP connection; says why it could not. `variable`: the setting that names the host."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_seconds):
            addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        report.problem(
            area,
            f"DNS does not know the name {host} ({error.strerror}).",
            f"Correct the host in {variable}. If it is right, see that the Service exists (`kubectl get service`) and "
            "that pods may ask DNS (port 53 in egress NetworkPolicies).",
        )
        return False
    except TimeoutError:
        report.problem(
            area,
            f"DNS did not answer for {host} within {timeout_seconds:g} s.",
            "Allow port 53 (UDP and TCP) in egress NetworkPolicies, and look at the cluster's DNS pods.",
        )
        return False
    last: OSError = OSError("no address")
    for family, kind, protocol, _, address in addresses:
        with socket.socket(family, kind, protocol) as client:
            client.setblocking(False)
            try:
                async with asyncio.timeout(timeout_seconds):
                    await loop.sock_connect(client, address)
            except OSError as error:  # TimeoutError is one
                last = error
                continue
            return True
    where = f"{host}:{port}"
    if isinstance(last, ConnectionRefusedError):
        report.problem(
            area,
            f"{where} refuses connections: the machine is there, and nothing listens on that port.",
            f"Start the server, or correct the port in {variable}. In a cluster: `kubectl get pods,endpoints`.",
        )
    elif isinstance(last, TimeoutError):
        report.problem(
            area,
            f"{where} does not answer within {timeout_seconds:g} s: something on the way drops the packets.",
            "Look for a firewall, a security group or a NetworkPolicy that does not let these pods out or in.",
        )
    else:
        report.problem(
            area,
            f"{where} cannot be reached ({last.strerror or last}).",
            f"Correct {variable}, or the route to it from here.",
        )
    return False
