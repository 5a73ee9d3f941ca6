#!/bin/sh
# What both images run as root in Debian 12: packages, then the set-up at the versions of constraints.txt.
# Arguments: extras of the set-up. ACCELERATOR=cuda|cpu: a machine that builds images has no GPU to look for.
set -eu
cd "$(dirname "$0")/../.."
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# g++: what torch.compile and DeepSpeed's offloading compile at run time
apt-get install -y -qq --no-install-recommends ca-certificates g++ python3-dev python3-venv
python3 setup/install.py "$@"
rm -rf /var/lib/apt/lists/* /root/.cache
