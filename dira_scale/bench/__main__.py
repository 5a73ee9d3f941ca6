from dira_scale.bench import main

if __name__ == "__main__":
    raise SystemExit(main())
