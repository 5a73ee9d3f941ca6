from dira_scale.embed import main

if __name__ == "__main__":
    raise SystemExit(main())
