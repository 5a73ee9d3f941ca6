from dira_scale.localize import main

if __name__ == "__main__":
    raise SystemExit(main())
