import subprocess
import sys

from onlyforward.core.keys import Key


def test_a_seed_is_the_documented_hash_of_its_coordinates():
    assert Key().seed == 3383542097937848045
    assert Key(run=1, step=2, site="a", copy=3, chunk=4).seed == 5048789311935118989


def test_every_coordinate_changes_the_seed():
    seeds = {
        Key(run=r, step=s, copy=c, chunk=k).seed for r in range(8) for s in range(8) for c in range(8) for k in range(8)
    }
    assert len(seeds) == 8**4


def test_the_package_imports_without_torch():
    code = "import sys, onlyforward; raise SystemExit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
