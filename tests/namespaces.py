"""Two hosts on one machine: network namespaces, joined by a virtual cable."""
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest

PORT = 29400


class Host:
    """A network namespace with one interface."""

    def __init__(self, name: str, address: str, interface: str):
        self.name, self.address, self.interface = name, address, interface

    def start(self, *command, log, **kwargs) -> subprocess.Popen:
        """Start a command in this host; it must not outlive the test, see ``crash``."""
        return subprocess.Popen(['ip', 'netns', 'exec', self.name, *map(str, command)],
                                stdout=log, stderr=subprocess.STDOUT, **kwargs)

    def torchrun(self, *command, store: 'Host', log, env, **kwargs) -> subprocess.Popen:
        """Join a run of two hosts, one process each, that restarts when one is lost."""
        # The address is not the one that this machine's name stands for, so torchrun cannot
        # find out by itself who keeps the store. Lost hosts are to be noticed soon.
        conf = (f'is_host={int(self is store)},keep_alive_interval=1,keep_alive_max_attempt=5,'
                'join_timeout=120')
        return self.start(
            sys.executable, '-m', 'torch.distributed.run', '--nnodes=2', '--nproc-per-node=1',
            '--max-restarts=3', '--rdzv-backend=c10d', f'--rdzv-endpoint={store.address}:{PORT}',
            '--rdzv-id=test', f'--local-addr={self.address}', f'--rdzv-conf={conf}', *command,
            log=log, env={**os.environ, **env, 'GLOO_SOCKET_IFNAME': self.interface,
                          'TORCH_DISABLE_SHARE_RDZV_TCP_STORE': '1'}, **kwargs)

    def crash(self) -> None:
        """Kill every process of this host, agent and worker, as a failing machine would."""
        pids = subprocess.run(['ip', 'netns', 'pids', self.name], capture_output=True, text=True)
        for pid in pids.stdout.split():
            subprocess.run(['kill', '-KILL', pid], check=False, capture_output=True)


def _ip(*words) -> None:
    subprocess.run(['ip', *words], check=True, capture_output=True, text=True)


@contextmanager
def two_hosts():
    """Two hosts that reach each other; skips the test where they may not be made."""
    if not shutil.which('ip'):
        pytest.skip('two hosts need the command ip (package iproute2)')
    mark = os.getpid() % 10**6
    hosts = [Host(f'mmeffnet-{mark}-{i}', f'10.99.7.{i}', f'mme{mark}v{i}') for i in (1, 2)]
    try:
        _ip('netns', 'add', hosts[0].name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f'two hosts need leave to make network namespaces: {error.stderr.strip()}')
    try:
        _ip('netns', 'add', hosts[1].name)
        _ip('link', 'add', hosts[0].interface, 'netns', hosts[0].name, 'type', 'veth',
            'peer', 'name', hosts[1].interface, 'netns', hosts[1].name)
        for host in hosts:
            _ip('-n', host.name, 'addr', 'add', f'{host.address}/30', 'dev', host.interface)
            for interface in (host.interface, 'lo'):
                _ip('-n', host.name, 'link', 'set', interface, 'up')
        yield hosts
    finally:
        for host in hosts:
            host.crash()
            # check=False: the second may not be there yet.
            subprocess.run(['ip', 'netns', 'del', host.name], check=False, capture_output=True)
