"""How parts are built from configs."""

import subprocess
import sys


def test_the_first_optimizer_does_not_import_the_compiler():
    code = (
        "import sys, torch\n"
        "from mmx.registry import OPTIMIZERS\n"
        "optimizer = OPTIMIZERS.build(dict(type='SGD', params=[torch.zeros(1)], lr=0.1))\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "optimizer.add_param_group(dict(params=[torch.zeros(1)]))\n"  # torch's own way again
        "assert 'torch._dynamo' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
