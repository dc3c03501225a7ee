"""`python -m zj_ray` is the command `zj`."""

from zj_ray.cli.main import main

if __name__ == "__main__":
    main()
