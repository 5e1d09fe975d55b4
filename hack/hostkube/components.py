"""What runs on the node and with which settings. Paths here are the node's own view: it has its /run and /var/lib."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from hack.hostkube.config import (
    API_PORT,
    CGROUP,
    DNS_ADDRESS,
    HERE,
    KUBERNETES_VERSION,
    NODE_ADDRESS,
    NODE_NAME,
    NODE_POD_SUBNET,
    POD_SUBNET,
    SERVICE_SUBNET,
)

PKI = Path("/run/pki")
KUBECONFIGS = Path("/run/kubeconfigs")
CONFIG = Path("/run/config")
CNI_CONFIG = Path("/run/cni")
CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")
VOLUME_PLUGINS = Path("/var/lib/kubelet/volume-plugins")
NETWORK_POLICY_COMMAND = "_network-policy"
PAUSE_IMAGE = "localhost/hostkube/pause:1"


@dataclass(frozen=True)
class Component:
    """A long-running program; `in_node` tells on which side of the network link it runs."""

    name: str
    command: tuple[str, ...]
    in_node: bool = True


def kubeadm_config() -> str:
    return f"""\
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {{advertiseAddress: {NODE_ADDRESS}, bindPort: 6443}}
nodeRegistration: {{name: {NODE_NAME}, criSocket: "unix://{CONTAINERD_SOCKET}"}}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
clusterName: {NODE_NAME}
kubernetesVersion: v{KUBERNETES_VERSION}
certificatesDir: {PKI}
encryptionAlgorithm: ECDSA-P256
networking: {{podSubnet: {POD_SUBNET}, serviceSubnet: {SERVICE_SUBNET}}}
apiServer: {{certSANs: [127.0.0.1, localhost]}}
"""


def containerd_config() -> str:
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE, which some virtual machines withhold, a process cannot be made
    # less likely to be killed than its parent, and pods would not start.
    return f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{CNI_CONFIG}"
"""


def cni_config() -> str:
    """Every pod has a link of its own to the node, which routes between them: no bridge, so no bridge filter."""
    ipam = {
        "type": "host-local",
        "dataDir": "/run/cni-addresses",
        "ranges": [[{"subnet": NODE_POD_SUBNET}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins = [
        {"type": "ptp", "ipMasq": False, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return json.dumps({"cniVersion": "1.0.0", "name": NODE_NAME, "plugins": plugins}, indent=1)


def kubelet_config() -> str:
    # Images come only from this machine, so the kubelet must never delete one; and a development machine's disk is
    # often fuller than the default eviction threshold allows.
    return f"""\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {NODE_ADDRESS}
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {PKI}/ca.crt}}
authorization: {{mode: Webhook}}
cgroupDriver: cgroupfs
cgroupRoot: /{CGROUP}
containerRuntimeEndpoint: unix://{CONTAINERD_SOCKET}
clusterDNS: [{DNS_ADDRESS}]
clusterDomain: cluster.local
resolvConf: {CONFIG}/resolv.conf
failSwapOn: false
failCgroupV1: false
evictionHard: {{nodefs.available: "1%", imagefs.available: "1%", memory.available: 100Mi}}
imageGCHighThresholdPercent: 100
volumePluginDir: {VOLUME_PLUGINS}
"""


def proxy_config() -> str:
    # The connection tracking limits belong to the whole machine: 0 leaves them as they are.
    return f"""\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: {POD_SUBNET}
hostnameOverride: {NODE_NAME}
bindAddress: {NODE_ADDRESS}
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
clientConnection: {{kubeconfig: {KUBECONFIGS}/super-admin.conf}}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
"""


def config_files() -> dict[Path, str]:
    return {
        CONFIG / "kubeadm.yaml": kubeadm_config(),
        CONFIG / "containerd.toml": containerd_config(),
        CONFIG / "kubelet.yaml": kubelet_config(),
        CONFIG / "kube-proxy.yaml": proxy_config(),
        CONFIG / "resolv.conf": "",
        CNI_CONFIG / "10-hostkube.conflist": cni_config(),
    }


ETCD = Component(
    "etcd",
    (
        "etcd",
        "--data-dir=/var/lib/etcd",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        # The cluster's state does not outlive the node anyway, and a slow disk would slow everything down.
        "--unsafe-no-fsync",
    ),
)

CONTAINERD = Component("containerd", ("containerd", f"--config={CONFIG}/containerd.toml"))

API_SERVER = Component(
    "kube-apiserver",
    (
        "kube-apiserver",
        f"--advertise-address={NODE_ADDRESS}",
        f"--bind-address={NODE_ADDRESS}",
        "--secure-port=6443",
        "--etcd-servers=http://127.0.0.1:2379",
        f"--service-cluster-ip-range={SERVICE_SUBNET}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--enable-aggregator-routing=true",
        f"--client-ca-file={PKI}/ca.crt",
        f"--tls-cert-file={PKI}/apiserver.crt",
        f"--tls-private-key-file={PKI}/apiserver.key",
        f"--kubelet-client-certificate={PKI}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={PKI}/apiserver-kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={PKI}/sa.pub",
        f"--service-account-signing-key-file={PKI}/sa.key",
        f"--requestheader-client-ca-file={PKI}/front-proxy-ca.crt",
        f"--proxy-client-cert-file={PKI}/front-proxy-client.crt",
        f"--proxy-client-key-file={PKI}/front-proxy-client.key",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
    ),
)

CONTROLLER_MANAGER = Component(
    "kube-controller-manager",
    (
        "kube-controller-manager",
        "--bind-address=127.0.0.1",
        f"--kubeconfig={KUBECONFIGS}/controller-manager.conf",
        f"--authentication-kubeconfig={KUBECONFIGS}/controller-manager.conf",
        f"--authorization-kubeconfig={KUBECONFIGS}/controller-manager.conf",
        f"--root-ca-file={PKI}/ca.crt",
        f"--service-account-private-key-file={PKI}/sa.key",
        f"--cluster-signing-cert-file={PKI}/ca.crt",
        f"--cluster-signing-key-file={PKI}/ca.key",
        "--use-service-account-credentials=true",
        "--allocate-node-cidrs=true",
        f"--cluster-cidr={POD_SUBNET}",
        f"--service-cluster-ip-range={SERVICE_SUBNET}",
        f"--flex-volume-plugin-dir={VOLUME_PLUGINS}",
        "--leader-elect=false",
        # Every test of an autoscaler waits for this, on top of the 10 s from one metric to the next.
        "--horizontal-pod-autoscaler-sync-period=5s",
    ),
)

SCHEDULER = Component(
    "kube-scheduler",
    (
        "kube-scheduler",
        "--bind-address=127.0.0.1",
        f"--kubeconfig={KUBECONFIGS}/scheduler.conf",
        f"--authentication-kubeconfig={KUBECONFIGS}/scheduler.conf",
        f"--authorization-kubeconfig={KUBECONFIGS}/scheduler.conf",
        "--leader-elect=false",
    ),
)

KUBELET = Component(
    "kubelet",
    (
        "kubelet",
        f"--config={CONFIG}/kubelet.yaml",
        f"--kubeconfig={KUBECONFIGS}/kubelet.conf",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={NODE_ADDRESS}",
    ),
)

KUBE_PROXY = Component("kube-proxy", ("kube-proxy", f"--config={CONFIG}/kube-proxy.yaml"))

NETWORK_POLICY = Component("network-policy", (sys.executable, str(HERE / "hostkube"), NETWORK_POLICY_COMMAND))

# The machine's own way to the API server is 127.0.0.1: a forgotten client of a node that is gone finds a closed port
# there, while packets to the node's address would leave by the default route.
FORWARDER = Component(
    "forwarder",
    (
        "socat",
        f"TCP-LISTEN:{API_PORT},bind=127.0.0.1,reuseaddr,fork,backlog=256",
        f"TCP:{NODE_ADDRESS}:6443",
    ),
    in_node=False,
)

FIRST = (ETCD, CONTAINERD, API_SERVER)
"""Started at once."""

AFTER_API = (CONTROLLER_MANAGER, SCHEDULER, KUBELET, KUBE_PROXY, NETWORK_POLICY, FORWARDER)
"""Some of these give up when the API server is not ready."""

COMPONENT_NAMES = tuple(component.name for component in (*FIRST, *AFTER_API))
