from dira_scale.words import main

if __name__ == "__main__":
    raise SystemExit(main())
