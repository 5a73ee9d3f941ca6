from dira_scale.probe import main

if __name__ == "__main__":
    raise SystemExit(main())
