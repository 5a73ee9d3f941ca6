from dira_scale.sweep import main

if __name__ == "__main__":
    raise SystemExit(main())
