from dira_scale.brightness import main

if __name__ == "__main__":
    raise SystemExit(main())
